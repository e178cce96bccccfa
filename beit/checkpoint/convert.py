"""Writes the weights of one publisher in the form of another."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from beit.checkpoint.canonical import State, missing_names
from beit.checkpoint.class_names import find_class_names
from beit.checkpoint.dialects import DialectInfo, from_canonical, to_canonical
from beit.checkpoint.dialects.companions import companion_files, pretrained_cfg
from beit.checkpoint.files import write
from beit.checkpoint.report import LoadReport, reshaped_tensors
from beit.checkpoint.source import described_in, open_checkpoint
from beit.files import replacing

_FOLDER_FORMS = ("huggingface", "timm")
_SHOWN = 8


def convert(
    source: str | Path, target: str | Path, *, form: str = "canonical", ema: bool | None = None
) -> LoadReport:
    """Write the weights of `source` to `target` in another publisher's form, and say what was done.

    Args:
        source: file, or folder of transformers or timm.
        target: `.pdparams` or `.safetensors` file; for timm and transformers also a folder, which then holds
            model.safetensors and the JSON files these libraries read. Written whole or not at all. What a
            `.pdparams` file cannot hold, preprocessing and class names, goes into `NAME.pretrained_cfg.json` beside it.
        form: publisher whose names, layout and wrapper are written.
        ema: take averaged weights; None for what the publisher of `source` does.
    Raises:
        ValueError: unreadable source, incomplete or unknown tensors, or a form that has no such network.
    """
    opened = open_checkpoint(source)
    state, info = to_canonical(opened.tree, ema=ema, name=opened.name, config=opened.config)
    info = replace(info, casts={**info.casts, **opened.casts})
    _check_complete(state, info, opened.name)
    tree = from_canonical(state, form)
    described = _description(info, opened.config)
    path = Path(target)
    if path.suffix not in (".pdparams", ".safetensors"):
        if form not in _FOLDER_FORMS:
            raise ValueError(
                f"cannot write {path}: name a .pdparams or .safetensors file (a folder is for {_FOLDER_FORMS})"
            )
        path.mkdir(parents=True, exist_ok=True)
        trained = info.feature_layers.get("trained", ())
        for name, content in companion_files(form, state, info.preprocessing, trained).items():
            _write_json(path / name, content)
        path = path / "model.safetensors"
    _write(path, tree, described, form)
    if path.suffix == ".pdparams":
        _write_json(described_in(path), described)
    reshaped = reshaped_tensors(info)
    return LoadReport(
        source=opened.name,
        container=opened.container,
        dialect=info,
        taken=tuple(name for name in state if name not in reshaped),
        reshaped=reshaped,
        dropped=info.dropped,
        num_parameters=sum(array.size for array in state.values()),
    )


def _check_complete(state: State, info: DialectInfo, name: str) -> None:
    missing = missing_names(state, info.kind)
    for title, names in (("lacks", missing), ("holds unknown tensors:", list(info.unknown))):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise ValueError(
                f"{name} ({info.publisher} {info.kind}) {title} {', '.join(names[:_SHOWN])}{more}"
            )


def _description(info: DialectInfo, config: Mapping[str, object]) -> dict[str, object]:
    """What no tensor tells and `open_checkpoint` reads back: preprocessing and class names, as far as known."""
    names = find_class_names(info.publisher, info.architecture.num_classes, config)
    described: dict[str, object] = {"pretrained_cfg": pretrained_cfg(info.preprocessing)}
    return described | ({"class_names": names} if names else {})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def _write(path: Path, tree: Mapping[str, object], described: Mapping[str, object], form: str) -> None:
    """The tree into its container. A safetensors file is flat and carries the description as metadata."""
    wrapper = next((key for key, value in tree.items() if isinstance(value, dict)), None)
    flat = tree[wrapper] if wrapper else tree
    assert isinstance(flat, Mapping)  # from_canonical: a state, or one under its wrapper
    arrays = {name: np.asarray(array, order="C") for name, array in flat.items()}
    if path.suffix == ".safetensors":
        metadata = {key: json.dumps(value) for key, value in described.items()}
        write(path, arrays, metadata={"format": "pt" if form in _FOLDER_FORMS else "pd", **metadata})
    else:
        write(path, {wrapper: arrays} if wrapper else arrays)
