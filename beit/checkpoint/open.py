"""Opens a checkpoint: a file, or a folder of transformers or timm, with the files beside the weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoint.metadata import RUN_CONFIG, RUN_WEIGHTS, WEIGHT_FILES, read_metadata
from beit.checkpoint.translate import Checkpoint, to_canonical
from beit.containers.files import read


def open_checkpoint(
    source: str | Path | Mapping[str, object] | Checkpoint,
    *,
    ema: bool | None = None,
    key: str | None = None,
    teacher: bool = False,
) -> Checkpoint:
    """Read and translate a checkpoint of any publisher.

    Args:
        source: a file, a folder of transformers or timm, the output folder of a run, or a state in memory (arrays, or tensors of Paddle or PyTorch); an open checkpoint is returned as it is.
        ema, key, teacher: as in `translate.to_canonical`.
    Raises:
        FileNotFoundError: there is no such file, or the folder holds no weights.
        CheckpointError: the file cannot be read, or is not of a known publisher.
    """
    if isinstance(source, Checkpoint):
        return source
    if isinstance(source, Mapping):
        return to_canonical(_as_arrays(source), ema=ema, key=key, teacher=teacher)
    file = _weights_file(Path(source))
    contents, name = read(file), file.name
    if name in WEIGHT_FILES:  # all model folders use these names: add the name of the folder
        name = f"{file.resolve().parent.name}/{name}"
    metadata, preprocessing = read_metadata(file, contents.metadata)
    state, info = to_canonical(
        contents.tree,
        ema=ema,
        key=key,
        name=name,
        container=contents.container,
        metadata=metadata,
        teacher=teacher,
    )
    casts = {**info.dtype_casts, **Counter(contents.dtypes_cast.values())}
    info = replace(info, dtype_casts=casts, left_out=contents.left_out)
    if preprocessing is not None:
        found = info.architecture
        size = found.image_size or preprocessing.image_size
        info = replace(info, preprocessing=replace(preprocessing, image_size=size, pooling=found.pooling))
    return Checkpoint(state, info)


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


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        names = RUN_WEIGHTS if (path / RUN_CONFIG).is_file() else WEIGHT_FILES
        for file in map(path.joinpath, names):
            if file.is_file():
                return file
        raise FileNotFoundError(f"the folder {path} holds none of {', '.join(names)}; name a weights file")
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    return path
