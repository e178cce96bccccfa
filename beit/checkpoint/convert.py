"""Writes the weights of one publisher in the form of another."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from beit.checkpoint.adapt import Changes
from beit.checkpoint.canonical import TABLE
from beit.checkpoint.files import nonfinite_names, write
from beit.checkpoint.key_format import KeyFormat
from beit.checkpoint.open import WEIGHT_SUFFIXES, open_checkpoint, weights_file
from beit.checkpoint.report import LoadReport, report_of
from beit.checkpoint.translate import Checkpoint, CheckpointInfo, from_canonical, written_format
from beit.containers.errors import listed
from beit.files import require_writable
from beit.metadata.architecture import NATIVE
from beit.metadata.files import (
    FOLDER_JSON,
    RESULTS_KEY,
    RUN_CONFIG_KEY,
    WEIGHT_FILES,
    edited_sidecar,
    is_run_file,
    json_files,
    sidecar_path,
)
from beit.metadata.folders import folder_files, refuse_stale
from beit.metadata.info import describe_weights

_FOLDER_PUBLISHERS = ("huggingface", "timm")
_SUFFIXES = {"paddle": (".pdparams", ".safetensors"), "torch": (".pdparams", ".safetensors", ".pth")}
"""Extensions of the files by the layout of a publisher's Linear weights."""


def convert(
    source: str | Path | Checkpoint,
    target: str | Path,
    *,
    publisher: str = NATIVE,
    ema: bool | None = None,
    key: str | None = None,
) -> LoadReport:
    """Write the weights of `source` to `target` in another publisher's form, and report what was done.

    The report also names what the form has no place for, and warns of weights that are NaN or infinite.

    Args:
        source: file, folder of transformers or timm, output folder of a run, or an open checkpoint.
        target: `.pdparams` or `.safetensors` file, for publishers who use PyTorch also `.pth`; for timm and transformers
            also a folder, which then holds model.safetensors and the JSON files these libraries read. Files appear whole
            or not at all. Preprocessing and class names of a `.pdparams` or `.pth` file go into
            `NAME.pretrained_cfg.json` beside it.
        publisher: whose names, layout and wrapper are written.
        ema: take averaged weights; None for what the publisher of `source` does.
        key: take the state dict under this key of `source`, as in `load_pretrained`.
    Raises:
        ValueError: unreadable source, incomplete or unknown tensors, a publisher that has no such model, or a target as in
            `refuse_replacing`.
    """
    refuse_replacing(target, [] if isinstance(source, Checkpoint) else [source])
    opened = open_checkpoint(source, ema=ema, key=key)
    opened.require_complete()
    if opened.info.unknown:
        raise ValueError(f"{opened.info.title} holds unknown tensors: {listed(opened.info.unknown)}")
    _check_grid(opened, publisher)
    state, info = opened
    contents = from_canonical(state, publisher, info.architecture.grid_size)
    if publisher == "openmmlab" and isinstance(info.class_names, tuple):
        contents["meta"] = {"dataset_meta": {"classes": list(info.class_names)}}  # where its init_model looks
    path = Path(target)
    key_format = written_format(publisher, info.kind)
    is_folder = _is_folder(path, publisher, key_format.layout)
    omitted = [name for name in state if key_format.leaves_out(name)]
    notes = [f"{publisher} has no place for {listed(omitted)}: left out"] if omitted else []
    beside: dict[Path, dict[str, object]] = {}
    if is_folder:
        files, more = folder_files(info, publisher)
        notes += more
        refuse_stale(path, files)
        beside = {path / name: content for name, content in files.items()}
        path.mkdir(parents=True, exist_ok=True)
        path = path / WEIGHT_FILES[0]
    elif publisher != NATIVE:
        notes.append(_describe_place(path, publisher))
    _write(path, contents, key_format, info, beside)
    non_finite = tuple(nonfinite_names(state))
    return report_of(replace(info, notes=(*info.notes, *notes)), state, Changes(), non_finite)


def require_target(target: str | Path) -> None:
    """Refuse a file that `convert` could not write in this package's form, before what it is to hold is computed.

    Raises:
        ValueError: another ending.
        OSError: as `files.require_writable`.
    """
    _is_folder(Path(target), NATIVE, "paddle")
    require_writable(target)


def refuse_replacing(target: str | Path, sources: Iterable[str | Path]) -> None:
    """Refuse to write weights over those that they are made of, or over the weights of a run.

    Args:
        target: file to write, or a folder of timm or transformers.
        sources: files and folders that are read.

    Raises:
        ValueError: the file is a source or the weights of a folder that is one, the folder is or holds a source with files
            that would be replaced, or the file was written by a run.
    """
    path = Path(target)
    if not path.exists():
        return
    read = [_weights_of(source) for source in sources if Path(source).exists()]
    written = [name for name in (WEIGHT_FILES[0], *FOLDER_JSON) if (path / name).exists()]
    if written and any(path.samefile(file.parent) for file in read):
        raise ValueError(
            f"{target} is the folder of the weights that are read, and has {' and '.join(written)}; name another folder to "
            "write"
        )
    if any(path.samefile(file) for file in read):
        raise ValueError(f"{target} is also read; name another file to write")
    if is_run_file(path):
        raise ValueError(f"{target} was written by the run in {path.parent}; name another file to write")


def _weights_of(source: str | Path) -> Path:
    try:
        return weights_file(source)
    except (ValueError, FileNotFoundError):  # whoever reads the source reports it
        return Path(source)


def _is_folder(path: Path, publisher: str, layout: str) -> bool:
    """Whether the target is a folder; a file has an extension that goes with the layout."""
    suffixes = _SUFFIXES[layout]
    if path.suffix in suffixes:
        return False
    if publisher not in _FOLDER_PUBLISHERS or path.suffix in WEIGHT_SUFFIXES:
        raise ValueError(
            f"cannot write {path}: weights of the form {publisher} are a file that ends in {' or '.join(suffixes)}; only those "
            f"of {' and '.join(_FOLDER_PUBLISHERS)} may be a folder"
        )
    return True


def _describe_place(path: Path, publisher: str) -> str:
    """A sentence on preprocessing and class names of a file that its publisher reads without them."""
    place = "its metadata" if path.suffix == ".safetensors" else sidecar_path(path).name
    in_folder = "; convert to a folder for that" if publisher in _FOLDER_PUBLISHERS else ""
    return f"preprocessing and class names are in {place}, which {publisher} does not read{in_folder}"


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


def _write(
    path: Path,
    contents: Mapping[str, object],
    key_format: KeyFormat,
    info: CheckpointInfo,
    beside: Mapping[Path, Mapping[str, object]],
) -> None:
    """Write the contents and their description. A safetensors file is flat, without wrapper, and holds both.

    A `.pdparams` file holds both too; beside it the description can be edited.

    Args:
        beside: JSON files of the folder.
    """
    description = describe_weights(info)
    texts = {key: json.dumps(value) for key, value in description.items()}
    if info.run_config:
        texts[RUN_CONFIG_KEY] = info.run_config
    if info.results:
        texts[RESULTS_KEY] = json.dumps(info.results)
    if path.suffix == ".safetensors":
        texts = {"format": "pt" if key_format.publisher in _FOLDER_PUBLISHERS else "pd"} | texts
    wrapper = key_format.wrapper if path.suffix == ".safetensors" else None
    tree = contents[wrapper] if wrapper else contents
    # A description that is there already would be read with these weights.
    if path.suffix != ".safetensors" or sidecar_path(path).exists():
        beside = {**beside, sidecar_path(path): edited_sidecar(path, description)}
    with json_files(beside):
        write(path, tree, metadata=None if path.suffix == ".pth" else texts)
