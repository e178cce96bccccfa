"""Writes the weights of one publisher in the form of another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from beit.checkpoint.adapt import Changes
from beit.checkpoint.canonical import TABLE, missing_names
from beit.checkpoint.files import write
from beit.checkpoint.key_format import NATIVE
from beit.checkpoint.metadata import describe_weights, folder_files, sidecar_path, write_json
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.report import LoadReport, report_of
from beit.checkpoint.translate import Checkpoint, from_canonical

_FOLDER_PUBLISHERS = ("huggingface", "timm")
_SHOWN = 8  # tensors named in an error


def convert(
    source: str | Path, target: str | Path, *, publisher: str = NATIVE, ema: bool | None = None
) -> LoadReport:
    """Write the weights of `source` to `target` in another publisher's form, and report what was done.

    Args:
        source: file, or folder of transformers or timm.
        target: `.pdparams` or `.safetensors` file; for timm and transformers also a folder, which then holds
            model.safetensors and the JSON files these libraries read. Files appear whole or not at all. Preprocessing
            and class names of a `.pdparams` file go into `NAME.pretrained_cfg.json` beside it.
        publisher: whose names, layout and wrapper are written.
        ema: take averaged weights; None for what the publisher of `source` does.
    Raises:
        ValueError: unreadable source, incomplete or unknown tensors, or a publisher that has no such model.
    """
    opened = open_checkpoint(source, ema=ema)
    _check_complete(opened)
    state, info = opened.state, opened.info
    _check_grid(opened, publisher)
    contents = from_canonical(state, publisher, info.architecture.grid_size)
    description = describe_weights(info.preprocessing, info.class_names)
    path = Path(target)
    if path.suffix not in (".pdparams", ".safetensors"):
        if publisher not in _FOLDER_PUBLISHERS:
            raise ValueError(
                f"cannot write {path}: name a .pdparams or .safetensors file (a folder is for {_FOLDER_PUBLISHERS})"
            )
        path.mkdir(parents=True, exist_ok=True)
        layers = info.feature_layers.get("trained", ())
        for name, content in folder_files(
            publisher, state, info.architecture, info.preprocessing, layers
        ).items():
            write_json(path / name, content)
        path = path / "model.safetensors"
    metadata = {key: json.dumps(value) for key, value in description.items()}
    _write(path, contents, {"format": "pt" if publisher in _FOLDER_PUBLISHERS else "pd", **metadata})
    if path.suffix == ".pdparams":
        write_json(sidecar_path(path), description)
    return report_of(info, state, Changes())


def _check_complete(opened: Checkpoint) -> None:
    info = opened.info
    problems = (("lacks", missing_names(opened.state, info.kind)), ("holds unknown tensors:", info.unknown))
    for title, names in problems:
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise ValueError(
                f"{info.name} ({info.publisher} {info.kind}) {title} {', '.join(names[:_SHOWN])}{more}"
            )


def _check_grid(opened: Checkpoint, publisher: str) -> None:
    """The forms of others state the image size; positions alone give it for square images only."""
    state, info = opened
    positions = [name for name in state if name.endswith((TABLE, "pos_embed"))]
    if positions and info.architecture.grid_size is None and publisher != NATIVE:
        raise ValueError(
            f"{info.name}: {positions[0]} {list(state[positions[0]].shape)} is not of a square image, and no file beside "
            f'the weights states its size: write {{"pretrained_cfg": {{"input_size": [3, height, width]}}}} to '
            f"{sidecar_path(Path(info.name)).name} beside them"
        )


def _write(path: Path, contents: Mapping[str, object], metadata: Mapping[str, str]) -> None:
    """Write the contents. A safetensors file is flat, without wrapper, and holds the metadata."""
    wrapper = next((key for key, value in contents.items() if isinstance(value, dict)), None)
    flat = contents[wrapper] if wrapper else contents
    assert isinstance(flat, Mapping)  # from_canonical returns a state, or one under its wrapper
    arrays = {name: np.asarray(array, order="C") for name, array in flat.items()}
    if path.suffix == ".safetensors":
        write(path, arrays, metadata=metadata)
    else:
        write(path, {wrapper: arrays} if wrapper else arrays)
