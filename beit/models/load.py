"""Loads a checkpoint of any publisher, or a published name, into a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from beit.checkpoint.canonical import State
from beit.checkpoint.fit import fit
from beit.checkpoint.report import LoadReport
from beit.checkpoint.translate import Checkpoint, CheckpointInfo
from beit.layers.init import has_values
from beit.positions import Interpolation
from beit.preprocessing import Preprocessing
from beit.zoo import path_of


def load_pretrained(
    model: paddle.nn.Layer,
    path_or_state: str | Path | Mapping[str, object] | Checkpoint,
    *,
    ema: bool | None = None,
    key: str | None = None,
    interpolation: Interpolation = "geometric",
    allow_missing: Sequence[str] = (),
    require_finite: bool = True,
    copy: bool = True,
) -> LoadReport:
    """Load a checkpoint of any known publisher into `model` and report what was done.

    Position tables, absolute positions and the patch embedding are resized to the model. A head for another number of
    classes and the heads of another task are left out, and the model's own keep their values. All else must fit.
    A `Beit` whose head came from the file then has the file's `preprocessing` and `class_names`.

    Args:
        model: a model of this package. Its `patch_embed.grid_size` (h, w), where it has one, is the target grid.
        path_or_state: a file, a folder (of transformers or timm, of a run, or with one weights file), a published name,
            which is downloaded, a state dict in memory (tensors or arrays), or an open checkpoint.
        ema: take the averaged weights; None for what the publisher's evaluation does (PaddleViT does, unilm does not).
            An open checkpoint has made this choice.
        key: take the state dict under this key of the file (`ema`, `teacher`, `callbacks.average`), or the tensors with
            this prefix, where the file holds several.
        interpolation: of relative position tables: "geometric" as the official code, or "linear" as timm.
        allow_missing: patterns (`*`, `?`) of model tensors that may keep their initial values.
        require_finite: refuse weights that are NaN or infinite; False: warn and name them in the report.
        copy: copy the arrays into the model. False: on a CPU the model uses the memory of the arrays that fit as they are,
            so nothing else may use the checkpoint or state afterwards.

    Returns:
        What was taken, changed, left out and new. `print` it; `report.mismatches(config)` compares it with a config.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is unreadable, unsafe, or of no known publisher; the message says what it is.
        ValueError: the contents do not fit the model, or are not finite. The model is left as it was.

    Examples:
        model = beit.build_beit(beit.get_config("beit_base_patch16_224"))
        report = beit.load_pretrained(model, "beit_base_patch16_224.pdparams")
    """
    current = model.state_dict()
    state, report = fit(
        path_of(path_or_state) if isinstance(path_or_state, str | Path) else path_or_state,
        {name: tuple(tensor.shape) for name, tensor in current.items()},
        grid=_grid(model),
        ema=ema,
        key=key,
        interpolation=interpolation,
        allow_missing=allow_missing,
        require_finite=require_finite,
    )
    if not copy and paddle.get_device() == "cpu":
        for name in _whole_buffers(state, current):
            share_memory(current[name], state.pop(name))
    for name in state.keys() & current.keys():
        if not has_values(current[name]):  # `set_state_dict` of Paddle 3.0 would leave it without memory
            current[name].set_value(paddle.to_tensor(state.pop(name), dtype=current[name].dtype))
    # Tensors that keep their values are passed as well, so that Paddle does not report them as missing.
    model.set_state_dict({name: state.get(name, tensor) for name, tensor in current.items()})
    if "head.weight" not in report.new:  # a model with a new head will be trained, as its config says
        _attach_metadata(model, report.info)
    return report


def share_memory(tensor: paddle.Tensor, array: np.ndarray) -> None:
    """Let a tensor on the CPU use the memory of an array of its shape and type, which is writable and in row-major order."""
    # A name for it: `get_tensor` does not keep its tensor alive until the call.
    source = paddle.utils.dlpack.from_dlpack(array)
    tensor.get_tensor()._share_data_with(source.get_tensor())


def _whole_buffers(state: State, current: Mapping[str, paddle.Tensor]) -> list[str]:
    """Names of the arrays that have the type of the model's tensor and a writable buffer of their own."""
    buffers: dict[int, str] = {}
    for name, array in state.items():
        buffer: Any = array
        while isinstance(buffer, np.ndarray) and buffer.base is not None:
            buffer = buffer.base  # `bytes` for arrays of pickles, as in NumPy's own
        size = len(buffer) if isinstance(buffer, bytes) else getattr(buffer, "nbytes", 0)
        is_whole = size == array.nbytes > 0
        if is_whole and array.flags.writeable and str(current[name].dtype) == f"paddle.{array.dtype}":
            # Of several tensors with one buffer only the first may have it.
            buffers.setdefault(id(buffer), name)
    return list(buffers.values())


def _attach_metadata(model: Any, info: CheckpointInfo) -> None:
    """Set the attributes `preprocessing` and `class_names` of a model that has them (`Beit`): they belong to the weights."""
    if not hasattr(model, "preprocessing"):
        return
    stated, own = info.preprocessing, model.preprocessing or Preprocessing()
    if stated.mean is not None or own.mean is None:
        # Pre-training checkpoints have no evaluation crop, and no publisher states anything about EXIF.
        turned = stated.exif_orientation
        model.preprocessing = replace(
            stated,
            crop_pct=own.crop_pct if stated.crop_pct is None else stated.crop_pct,
            exif_orientation=own.exif_orientation if turned is None else turned,
        )
    if getattr(model, "num_classes", 0) == info.architecture.num_classes:
        model.class_names = info.class_names


def _grid(model: Any) -> tuple[int, int] | None:
    encoder = next((getattr(model, part) for part in ("backbone", "encoder") if hasattr(model, part)), model)
    size = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    return None if size is None else (int(size[0]), int(size[1]))
