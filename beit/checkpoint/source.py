"""A checkpoint on disk: one file, or a folder of transformers or timm with JSON beside the weights."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.files import read

_WEIGHT_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
)  # of a transformers or timm folder, the first that exists
_COMPANIONS = ("config.json", "preprocessor_config.json")
_RUN_FILES = re.compile(r"(latest|best|model|epoch_\d+)\.pdparams")  # what a run of this package writes
RUN_CONFIG = "config.yaml"
"""Resolved config of a run, in its output folder."""
RUN_CLASS_NAMES = "class_names.txt"
"""Names of the classes of a run, one a line, in its output folder."""


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


def open_checkpoint(path_or_state: str | Path | Mapping[str, object] | Source) -> Source:
    """Read a file, or the weights of a folder, with the JSON files beside them; what is read already stays as it is.

    Raises:
        FileNotFoundError: there is no such file, or the folder holds no weights.
        CheckpointError: the file cannot be read.
    """
    if isinstance(path_or_state, Source):
        return path_or_state
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
    elif _RUN_FILES.fullmatch(name):
        config |= _run_config(file.with_name(RUN_CONFIG)) | _run_class_names(file.with_name(RUN_CLASS_NAMES))
    config |= _described(described_in(file))
    return Source(contents.tree, contents.container, name, config, Counter(contents.dtypes_cast.values()))


def described_in(weights: Path) -> Path:
    """Where `python -m beit convert` describes what a `.pdparams` file cannot: `NAME.pretrained_cfg.json` beside it."""
    return weights.with_suffix(".pretrained_cfg.json")


def is_run_file(path: Path) -> bool:
    """Whether a weights file is one that a run of this package wrote, with its config beside it."""
    return bool(_RUN_FILES.fullmatch(path.name)) and path.with_name(RUN_CONFIG).is_file()


def _described(path: Path) -> dict[str, object]:
    """Preprocessing and class names of a converted file; nothing when there is no such JSON, or it is another's."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {}
    known = content if isinstance(content, dict) else {}
    return {key: known[key] for key in ("pretrained_cfg", "class_names") if key in known}


def _run_class_names(path: Path) -> dict[str, object]:
    """The class names of a run, where its data had any."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError):
        return {}
    names = [line.strip() for line in lines if line.strip()]
    return {"class_names": names} if names else {}


def _run_config(path: Path) -> dict[str, object]:
    """The preprocessing of the run that wrote a folder, in timm's words; nothing when it is no run of this package."""
    if not path.is_file():
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))["DATA"]
        size = data["IMAGE_SIZE"]
        return {
            "pretrained_cfg": {
                "mean": data["IMAGENET_MEAN"],
                "std": data["IMAGENET_STD"],
                "crop_pct": data["CROP_PCT"],
                "interpolation": data["INTERPOLATION"],
                "input_size": [3, size, size] if isinstance(size, int) else [3, *size],
                "exif_orientation": data["EXIF_ORIENTATION"],
                "source": f"{RUN_CONFIG} beside the weights",
            }
        }
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return {}  # somebody else's file of that name


def _metadata(metadata: Mapping[str, str]) -> dict[str, object]:
    """The preprocessing and the class names that `python -m beit convert` notes in a safetensors file."""
    found: dict[str, object] = {}
    for key, kind in (("pretrained_cfg", dict), ("class_names", list | str)):
        try:
            content = json.loads(metadata.get(key, "null"))
        except ValueError:
            continue  # somebody else's metadata
        if isinstance(content, kind) and content:
            found[key] = content
    return found


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
