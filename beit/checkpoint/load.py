"""Any checkpoint of a known form into a model, or an error that says what does not fit. Nothing is loaded in part."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from beit.checkpoint.adapt import TABLE, Changes, Shapes, adapt
from beit.checkpoint.canonical import Architecture, State, describe, kind_of
from beit.checkpoint.class_names import find_class_names
from beit.checkpoint.dialects import DialectInfo, to_canonical
from beit.checkpoint.files import describe_nonfinite
from beit.checkpoint.report import LoadReport, reshaped_tensors
from beit.checkpoint.source import Source, open_checkpoint
from beit.positions import Interpolation
from beit.preprocessing import Preprocessing

_STRIP = 64  # columns: a strip of a large matrix stays in the cache
_SHOWN = 12  # lines of each list in an error


def load_pretrained(
    model: paddle.nn.Layer,
    path_or_state: str | Path | Mapping[str, object] | Source,
    *,
    ema: bool | None = None,
    interpolation: Interpolation = "geometric",
    allow_missing: Sequence[str] = (),
) -> LoadReport:
    """Fill `model` from a checkpoint of any known publisher and say what was done.

    Position tables, absolute positions and the patch embedding are resized to the model; a head of another class
    count, and the heads of another task, are left out and the model's own stay as they are. All else must fit.
    A `Beit` whose head came from the file then has the file's `preprocessing` and `class_names`.

    Args:
        model: canonical tensor names; its `patch_embed.grid_size` (h, w), where it has one, is the target grid.
        path_or_state: a file, a folder of transformers or timm, one that is read already, or a state in memory.
        ema: take averaged weights; None for what the publisher's evaluation does (PaddleViT does, unilm does not).
        interpolation: of relative position tables: "geometric" as the official code, or "linear" as timm.
        allow_missing: patterns (`*`, `?`) of model tensors that may keep their initial values.
    Raises:
        CheckpointError: unreadable, unsafe, or no known form; the message says what the file is.
        ValueError: what is in the file does not fit the model. The model is left as it was.
    """
    source = open_checkpoint(path_or_state)
    state, info = to_canonical(source.tree, ema=ema, name=source.name, config=source.config)
    info = replace(info, casts={**info.casts, **source.casts})
    current = model.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in current.items()}
    state, changes = adapt(state, shapes, grid=_grid(model), interpolation=interpolation)
    _check_fit(state, shapes, changes, info, source.name, allow_missing)
    # Nothing else holds the arrays of the file now, so that each is released when its copy in memory order exists.
    source = replace(source, tree={})
    for name in state:
        state[name] = _in_memory_order(state[name])
    non_finite = tuple(describe_nonfinite(state))
    if non_finite:
        warnings.warn(
            f"{source.name}: NaN or Inf in {len(non_finite)} tensors, e.g. {non_finite[0]}", stacklevel=2
        )
    reshaped = reshaped_tensors(info)
    # Tensors that keep their values are passed along, so that nothing is reported missing by Paddle.
    model.set_state_dict({name: state.get(name, tensor) for name, tensor in current.items()})
    _tell_model(model, info, source.config, head_is_new="head.weight" in changes.new)
    return LoadReport(
        source=source.name,
        container=source.container,
        dialect=info,
        taken=tuple(name for name in state if name not in reshaped and name not in changes.resized),
        reshaped={name: why for name, why in reshaped.items() if name in state},
        resized=changes.resized,
        dropped=info.dropped | changes.dropped,
        new=changes.new,
        num_parameters=sum(array.size for array in state.values()),
        non_finite=non_finite,
    )


def _tell_model(model: Any, info: DialectInfo, config: Mapping[str, object], *, head_is_new: bool) -> None:
    """Preprocessing and class names belong to the weights: a model that remembers them (`Beit`) takes the file's.

    A model whose head is new is going to be trained as its config says.
    """
    if head_is_new or not hasattr(model, "preprocessing"):
        return
    wants, own = info.preprocessing, model.preprocessing or Preprocessing()
    if wants.mean is not None or own.mean is None:
        # Of pre-training checkpoints no evaluation crop is known, and no published file says anything of EXIF.
        crop = own.crop_pct if wants.crop_pct is None else wants.crop_pct
        model.preprocessing = replace(
            wants, crop_pct=crop, exif_orientation=wants.exif_orientation or own.exif_orientation
        )
    if getattr(model, "num_classes", 0) == info.architecture.num_classes:
        model.class_names = find_class_names(info.publisher, info.architecture.num_classes, config)


def _grid(model: Any) -> tuple[int, int] | None:
    encoder = next((getattr(model, part) for part in ("backbone", "encoder") if hasattr(model, part)), model)
    size = getattr(getattr(encoder, "patch_embed", None), "grid_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def _in_memory_order(array: np.ndarray) -> np.ndarray:
    """The array with its rows one after the other. In strips: NumPy's own copy of a transposed matrix is 3 times slower."""
    if array.flags.c_contiguous or array.ndim != 2:
        return np.asarray(array, order="C")
    result = np.empty_like(array, order="C")
    for start in range(0, array.shape[1], _STRIP):
        result[:, start : start + _STRIP] = array[:, start : start + _STRIP]
    return result


def _check_fit(
    state: State,
    shapes: Shapes,
    changes: Changes,
    info: DialectInfo,
    name: str,
    allow_missing: Sequence[str],
) -> None:
    """Every tensor of the model is filled or declared new, and nothing is left over."""
    differing = [key for key in state if key in shapes and tuple(state[key].shape) != shapes[key]]
    left_over = [*(key for key in state if key not in shapes), *info.unknown]
    missing = []
    for key in shapes.keys() - state.keys() - changes.new.keys():
        if any(fnmatch.fnmatchcase(key, pattern) for pattern in allow_missing):
            changes.new[key] = "not in the file, allowed"
        else:
            missing.append(key)
    if not (differing or left_over or missing):
        return
    target = describe(
        {key: np.broadcast_to(np.float32(0), shape) for key, shape in shapes.items()}, kind_of(shapes)
    )
    lines = [f"{name} ({info.publisher} {info.kind}) does not fit the model, which is left as it was"]
    lines += [f"  {hint}" for hint in _hints(info.architecture, target, info)]
    rows = {
        "other shape": [
            f"{key}  file {list(state[key].shape)}  model {list(shapes[key])}" for key in differing
        ],
        "not in the file": sorted(missing),
        "not in the model": left_over,
    }
    for title, entries in rows.items():
        more = [f"… and {len(entries) - _SHOWN} more"] if len(entries) > _SHOWN else []
        lines += [f"  {title}: {entry}" for entry in [*entries[:_SHOWN], *more]]
    raise ValueError("\n".join(lines))


def _hints(file: Architecture, model: Architecture, info: DialectInfo) -> list[str]:
    """What the differences mean and which key answers them."""
    hints = []
    if (file.depth, file.width) != (model.depth, model.width):
        hints.append(
            f"the file is a {_size(file)}, the model a {_size(model)}: take the config that goes with the file, "
            "or set MODEL.DEPTH, MODEL.EMBED_DIM and MODEL.NUM_HEADS"
        )
    elif file.num_heads != model.num_heads:
        hints.append(f"the file has {file.num_heads} heads, the model {model.num_heads}: set MODEL.NUM_HEADS")
    if file.mlp_width != model.mlp_width and file.width == model.width:
        hints.append(
            f"the MLP width of the file is {file.mlp_width}, of the model {model.mlp_width}: set MODEL.MLP_RATIO"
        )
    if file.pooling and model.pooling and file.pooling != model.pooling and info.kind == "classifier":
        wanted = file.pooling == "mean"
        hints.append(
            f"the file classifies by {'fc_norm, the mean of patches' if wanted else 'norm, the class token'}: "
            f"set MODEL.USE_MEAN_POOLING {wanted}"
        )
    in_file = file.has_relative_positions or file.has_shared_relative_positions
    in_model = model.has_relative_positions or model.has_shared_relative_positions
    if in_file and model.has_shared_relative_positions and not file.has_shared_relative_positions:
        hints.append(
            "each block of the file has its own position table, the model one for all: set "
            "MODEL.USE_SHARED_REL_POS_BIAS False and MODEL.USE_REL_POS_BIAS True"
        )
    flags = (
        ("USE_REL_POS_BIAS", in_file, in_model, f"relative position tables ({TABLE})"),
        ("USE_ABS_POS_EMB", file.has_absolute_positions, model.has_absolute_positions, "absolute positions"),
        ("INIT_VALUES", file.has_layer_scale, model.has_layer_scale, "layer scale (gamma_1, gamma_2)"),
    )
    for key, there, here, what in flags:
        if there != here:
            value: object = there if key != "INIT_VALUES" else 0.1 if there else 0
            hints.append(f"the file has {'' if there else 'no '}{what}: set MODEL.{key} {value}")
    return hints


def _size(architecture: Architecture) -> str:
    name = {(12, 768): "base", (24, 1024): "large"}.get((architecture.depth, architecture.width), "custom")
    return f"{name} (depth {architecture.depth}, width {architecture.width})"
