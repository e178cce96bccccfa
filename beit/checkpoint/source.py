"""A checkpoint on disk: one file, or a folder of transformers or timm with JSON beside the weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.files import read

_WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
)  # of a transformers or timm folder, the first that exists
_COMPANIONS = ("config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Source:
    """A checkpoint as read.

    `tree` is what it holds, `name` what to call it in messages, `config` the JSON beside it (or in its metadata), `casts`
    how many tensors of which number type the reader had to widen.
    """

    tree: Mapping[str, object]
    container: str
    name: str
    config: Mapping[str, object] = field(default_factory=dict)
    casts: Mapping[str, int] = field(default_factory=dict)


def open_checkpoint(path_or_state: str | Path | Mapping[str, object]) -> Source:
    """Read a file, or the weights of a folder, with the JSON files beside them.

    Raises:
        FileNotFoundError: there is no such file, or the folder holds no weights.
        CheckpointError: the file cannot be read.
    """
    if isinstance(path_or_state, Mapping):
        return Source(path_or_state, "memory", "state in memory")
    path = Path(path_or_state)
    file = path
    if path.is_dir():
        file = next((path / name for name in _WEIGHT_FILES if (path / name).is_file()), path)
        if file == path:
            raise FileNotFoundError(
                f"the folder {path} holds none of {', '.join(_WEIGHT_FILES)}; name a weights file"
            )
    elif not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    contents = read(file)
    config = _metadata(contents.metadata)
    name = file.name
    if name in _WEIGHT_FILES:  # every model folder calls its weights so: the folder has the name
        config |= _companions(file.parent)
        name = f"{file.resolve().parent.name}/{name}"
    return Source(contents.tree, contents.container, name, config, Counter(contents.dtypes_cast.values()))


def _metadata(metadata: Mapping[str, str]) -> dict[str, object]:
    """The preprocessing that `python -m beit convert` notes in a safetensors file."""
    try:
        content = json.loads(metadata.get("pretrained_cfg", "{}"))
    except ValueError:
        return {}  # somebody else's metadata
    return {"pretrained_cfg": content} if isinstance(content, dict) and content else {}


def _companions(folder: Path) -> dict[str, object]:
    """The JSON files of a model folder, merged."""
    merged: dict[str, object] = {}
    for name in _COMPANIONS:
        if (folder / name).is_file():
            try:
                content = json.loads((folder / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise CheckpointError(f"{folder / name} is not valid JSON: {error}") from error
            merged |= content if isinstance(content, dict) else {}
    return merged
