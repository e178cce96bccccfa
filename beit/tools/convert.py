"""`python -m beit convert`: any checkpoint form into any other."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from beit.checkpoint.atomic import replacing
from beit.checkpoint.canonical import State, missing_names
from beit.checkpoint.dialects import PUBLISHERS, DialectInfo, from_canonical, to_canonical
from beit.checkpoint.dialects.companions import companion_files, pretrained_cfg
from beit.checkpoint.files import write
from beit.checkpoint.report import LoadReport, reshaped_tensors
from beit.checkpoint.source import open_checkpoint

_FOLDER_FORMS = ("huggingface", "timm")
_SHOWN = 8


def convert(
    source: str | Path, target: str | Path, *, form: str = "canonical", ema: bool | None = None
) -> LoadReport:
    """Write the weights of `source` to `target` in another publisher's form, and say what was done.

    Args:
        source: file, or folder of transformers or timm.
        target: `.pdparams` or `.safetensors` file; for timm and transformers also a folder, which then holds
            model.safetensors and the JSON files these libraries read. Written whole or not at all.
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
    path = Path(target)
    if path.suffix not in (".pdparams", ".safetensors"):
        if form not in _FOLDER_FORMS:
            raise ValueError(
                f"cannot write {path}: name a .pdparams or .safetensors file (a folder is for {_FOLDER_FORMS})"
            )
        path.mkdir(parents=True, exist_ok=True)
        trained = info.feature_layers.get("trained", ())
        for name, content in companion_files(form, state, info.preprocessing, trained).items():
            with replacing(path / name) as file:
                file.write(json.dumps(content, indent=2).encode())
        path = path / "model.safetensors"
    _write(path, tree, info, form)
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


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `convert`; prints the report."""
    parser = argparse.ArgumentParser(prog="python -m beit convert", description=__doc__)
    parser.add_argument(
        "source", metavar="SRC", help="checkpoint of any known form: a file, or a model folder"
    )
    parser.add_argument(
        "target", metavar="DST", help=".pdparams or .safetensors file; a folder for timm, huggingface"
    )
    parser.add_argument(
        "--to", default="canonical", choices=PUBLISHERS, help="form to write (default: canonical)"
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="take the averaged weights of a training checkpoint, or not (default: as its publisher evaluates)",
    )
    arguments = parser.parse_args(argv)
    print(convert(arguments.source, arguments.target, form=arguments.to, ema=arguments.ema))
    print(f"written as {arguments.to}: {arguments.target}")


def _check_complete(state: State, info: DialectInfo, name: str) -> None:
    missing = missing_names(state, info.kind)
    for title, names in (("lacks", missing), ("holds unknown tensors:", list(info.unknown))):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            raise ValueError(
                f"{name} ({info.publisher} {info.kind}) {title} {', '.join(names[:_SHOWN])}{more}"
            )


def _write(path: Path, tree: Mapping[str, object], info: DialectInfo, form: str) -> None:
    """The tree into its container. A safetensors file is flat and carries the preprocessing as metadata."""
    wrapper = next((key for key, value in tree.items() if isinstance(value, dict)), None)
    flat = tree[wrapper] if wrapper else tree
    assert isinstance(flat, Mapping)  # from_canonical: a state, or one under its wrapper
    arrays = {name: np.asarray(array, order="C") for name, array in flat.items()}
    if path.suffix == ".safetensors":
        cfg = json.dumps(pretrained_cfg(info.preprocessing))
        write(
            path, arrays, metadata={"format": "pt" if form in _FOLDER_FORMS else "pd", "pretrained_cfg": cfg}
        )
    else:
        write(path, {wrapper: arrays} if wrapper else arrays)
