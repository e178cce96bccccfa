"""Opens a checkpoint: a file or a folder, with the files beside the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoint.adapter import HEADER, complete, read_adapter
from beit.checkpoint.files import Contents, read
from beit.checkpoint.shards import INDEX_SUFFIX, read_shards
from beit.checkpoint.translate import Checkpoint, to_canonical
from beit.containers.errors import CheckpointError, listed, shown
from beit.files import cache_folder
from beit.metadata.files import (
    RUN_CONFIG,
    RUN_WEIGHTS,
    WEIGHT_FILES,
    Metadata,
    is_run_file,
    read_metadata,
    training_metadata,
)

WEIGHT_SUFFIXES = (".safetensors", ".pdparams", ".pth", ".pt", ".bin", ".pkl", ".ckpt")
_OTHER_STATE = re.compile("optim|scheduler|scaler|rng_state|training_args")
"""In the names of files that training programs write beside the weights."""
_GRAPH_SUFFIXES = (".pdmodel", ".pdiparams", ".onnx")
_MAX_ADAPTERS = 8
"""On top of each other: a file can name itself as its base."""
_PART = re.compile(r".+-\d{5}-of-(\d{5})\.\w+")


def open_checkpoint(
    source: str | Path | Mapping[str, object] | Checkpoint,
    *,
    ema: bool | None = None,
    key: str | None = None,
    teacher: bool = False,
) -> Checkpoint:
    """Read and translate a checkpoint of any publisher.

    Args:
        source: a file; a folder of transformers or timm, or any folder with one weights file; the output folder of a run;
            a state in memory (arrays, or tensors of Paddle or PyTorch). An open checkpoint is returned as it is.
            Published names have a file, see `beit.zoo.path_of`.
        ema, key, teacher: as in `translate.to_canonical`.
    Raises:
        FileNotFoundError: there is no such file, or the folder holds no weights.
        CheckpointError: the file cannot be read, or is not of a known publisher; or as `weights_file`.
    """
    return _open(source, ema, key, teacher)


def _open(
    source: str | Path | Mapping[str, object] | Checkpoint,
    ema: bool | None,
    key: str | None,
    teacher: bool,
    adapters: int = 0,
) -> Checkpoint:
    """`open_checkpoint` of the base of a number of adapters."""
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        contents, name, metadata = Contents(_as_arrays(source), "memory"), "state in memory", Metadata({})
    else:
        contents, name, metadata = _read(source, adapters)
    try:
        return to_canonical(contents, name, metadata, ema=ema, key=key, teacher=teacher)
    except CheckpointError as error:
        raise type(error)(f"{name}: {error}") from error


def _read(source: str | Path, adapters: int) -> tuple[Contents, str, Metadata]:
    """Contents and name of the weights, and what is known beside their tensors."""
    file = weights_file(source)
    is_index = file.name.endswith(INDEX_SUFFIX)
    contents, name = read_shards(file) if is_index else read(file), file.name
    # Beside the only weights of a folder, the JSON of timm and transformers describes them.
    is_model_folder = (
        is_index or file.name in WEIGHT_FILES or (Path(source).is_dir() and not is_run_file(file))
    )
    if is_model_folder:  # many use the same names: add the name of the folder
        name = f"{file.resolve().parent.name}/{name}"
    header = contents.metadata or training_metadata(contents.tree)
    metadata = read_metadata(file, header, in_model_folder=is_model_folder)
    if HEADER in contents.metadata:
        contents, metadata = _with_base(file, contents, metadata, adapters)
    return contents, name, metadata


def _with_base(
    file: Path, contents: Contents, metadata: Metadata, adapters: int
) -> tuple[Contents, Metadata]:
    """An adapter file with the tensors of its base, which is where the file says, beside the file, or in the cache."""
    try:
        if adapters >= _MAX_ADAPTERS:
            raise CheckpointError(f"more than {_MAX_ADAPTERS} adapters, each the base of the next one")
        adapter = read_adapter(contents.metadata[HEADER])
        path = Path(adapter.path)
        places = [path, file.with_name(path.name), cache_folder() / path.name]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            raise CheckpointError(
                f"an adapter of the weights {shown(adapter.base)}, and {shown(path.name)} is in none of "
                f"{listed([shown(str(place.parent)) for place in places])}; copy or download it there"
            )
        base = _open(place, None, adapter.key or None, False, adapters + 1)
        tree = complete(contents.tree, adapter, base.state, shown(str(place)))
    except CheckpointError as error:
        raise type(error)(f"{file}: {error}") from error
    note = f"an adapter of {base.info.name}, with {len(contents.tree)} tensors of its own"
    return replace(contents, tree=tree), metadata._replace(notes=(*metadata.notes, note))


def _as_arrays(tree: Any) -> Any:
    """The tree with NumPy arrays in place of the tensors of Paddle or PyTorch. Neither is imported here."""
    if isinstance(tree, Mapping):
        return {name: _as_arrays(entry) for name, entry in tree.items()}
    if isinstance(tree, list | tuple):
        return [_as_arrays(entry) for entry in tree]
    if isinstance(tree, np.ndarray) or not hasattr(tree, "detach"):
        return tree
    tensor = tree.detach().cpu()
    # PyTorch does not convert bfloat16; Paddle hands it out as uint16, as `paddle.load` does.
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def weights_file(source: str | Path) -> Path:
    """The file that holds the weights of a path.

    In a folder it is the usual file of a run, of transformers or of timm, the index of one in several files, or else
    the only weights file.

    Raises:
        FileNotFoundError: there is no such file or folder, or the folder holds no weights.
        CheckpointError: an exported graph, one of several files without the others, or a folder of several weights.
    """
    path = Path(source)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        _refuse_graph(path, [path])
        part = _PART.fullmatch(path.name)
        if part and int(part[1]) > 1:
            raise CheckpointError(
                f"{path} is one of the {int(part[1])} files of its weights; name the folder, or its *{INDEX_SUFFIX}"
            )
        return path
    raise FileNotFoundError(f"checkpoint {source} does not exist: it is not a file or a folder")


def _in_folder(folder: Path) -> Path:
    usual = RUN_WEIGHTS if (folder / RUN_CONFIG).is_file() else WEIGHT_FILES
    for name in (*usual, *(name + INDEX_SUFFIX for name in WEIGHT_FILES)):
        if (folder / name).is_file():
            return folder / name
    files = sorted(file for file in folder.iterdir() if file.is_file())
    found = [file for file in files if file.name.endswith(INDEX_SUFFIX)]
    found = found or [
        file for file in files if file.suffix in WEIGHT_SUFFIXES and not _OTHER_STATE.search(file.name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        are_parts = all(_PART.fullmatch(file.name) for file in found)
        advice = f"their *{INDEX_SUFFIX} is missing, copy it too" if are_parts else "name one of them"
        raise CheckpointError(
            f"the folder {folder} holds {len(found)} weights files: {listed([file.name for file in found])}; {advice}"
        )
    _refuse_graph(folder, files)
    raise FileNotFoundError(
        f"the folder {folder} holds none of {', '.join(usual)}, and no other weights file; name one"
    )


def _refuse_graph(path: Path, files: Sequence[Path]) -> None:
    """Refuse an exported graph, whose tensors have no names."""
    if any(file.suffix in _GRAPH_SUFFIXES for file in files):
        raise CheckpointError(
            f"{path} is an exported graph, which can be run (beit predict, beit serve, beit.deploy.runner.load_runner) but not trained, evaluated "
            "or converted; name the weights that it was exported from: the run folder, or its model.pdparams"
        )
