"""Fits a checkpoint of any publisher to the shapes of a model, or says what does not fit. Nothing is fitted in part."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from beit.checkpoint.adapt import Changes, Shapes, adapt
from beit.checkpoint.canonical import TABLE, State, describe, kind_of
from beit.checkpoint.files import nonfinite_names
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.report import LoadReport, report_of
from beit.checkpoint.translate import Checkpoint, CheckpointInfo
from beit.containers.errors import shown
from beit.metadata.architecture import Architecture
from beit.positions import Interpolation

_STRIP = 64  # columns: a strip of a large matrix stays in the cache
_SHOWN = 12  # lines of each list in an error


def fit(
    source: str | Path | Mapping[str, object] | Checkpoint,
    shapes: Shapes,
    *,
    grid: tuple[int, int] | None,
    ema: bool | None = None,
    key: str | None = None,
    interpolation: Interpolation = "geometric",
    allow_missing: Sequence[str] = (),
    require_finite: bool = True,
) -> tuple[State, LoadReport]:
    """The tensors of a checkpoint as a model with tensors of these `shapes` takes them, in row-major order.

    Args:
        source, ema, key: as in `open_checkpoint`.
        shapes: of the model's tensors by canonical name.
        grid: (h, w) of the model in patches; None for one without patches, or for a square one.
        interpolation: of relative position tables: "geometric" as the official code, or "linear" as timm.
        allow_missing: patterns (`*`, `?`) of model tensors that may keep their initial values.
        require_finite: refuse weights that are NaN or infinite; False: warn and name them in the report.

    Raises:
        ValueError: the contents do not fit the model, or are not finite; or as `open_checkpoint`.
    """
    state, info = open_checkpoint(source, ema=ema, key=key)
    # No other reference to the file's arrays: each is released as soon as its copy in memory order exists.
    state, changes = adapt(
        state,
        shapes,
        source_grid=info.architecture.grid_size,
        grid=grid,
        interpolation=interpolation,
    )
    _check_fit(state, shapes, changes, info, allow_missing)
    for name in state:
        state[name] = _in_memory_order(state[name])
    non_finite = tuple(nonfinite_names(state))
    if non_finite and require_finite:
        raise ValueError(
            f"{info.name}: NaN or infinity in {len(non_finite)} tensors, first {non_finite[0]}; the run that "
            "wrote it had gone wrong, take an earlier checkpoint"
        )
    if non_finite:
        warnings.warn(
            f"{info.name}: NaN or Inf in {len(non_finite)} tensors, e.g. {non_finite[0]}", stacklevel=3
        )
    return state, report_of(info, state, changes, non_finite)


def _in_memory_order(array: np.ndarray) -> np.ndarray:
    """The array in row-major order. Copied in strips: NumPy's own copy of a transposed matrix is 3 times slower."""
    if array.flags.c_contiguous or array.ndim != 2:
        return np.asarray(array, order="C")
    result = np.empty_like(array, order="C")
    for start in range(0, array.shape[1], _STRIP):
        result[:, start : start + _STRIP] = array[:, start : start + _STRIP]
    return result


def _check_fit(
    state: State, shapes: Shapes, changes: Changes, info: CheckpointInfo, allow_missing: Sequence[str]
) -> None:
    """Every tensor of the model is filled or declared new, and none of the file is left over."""
    differing = [
        f"{name}  file {list(array.shape)}  model {list(shapes[name])}"
        for name, array in state.items()
        if name in shapes and array.shape != shapes[name]
    ]
    left_over = [*(name for name in state if name not in shapes), *info.unknown]
    missing = shapes.keys() - state.keys() - changes.new.keys()
    allowed = {
        name for name in missing if any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)
    }
    changes.new |= dict.fromkeys(allowed, "not in the file, allowed")
    missing -= allowed
    if not (differing or left_over or missing):
        return
    target = describe(shapes, kind_of(shapes))
    lines = [
        f"{info.title} does not fit the model, which is left as it was",
        *(f"  {hint}" for hint in _hints(info.architecture, target, is_classifier=info.kind == "classifier")),
    ]
    entries = {
        "other shape": differing,
        "not in the file": sorted(missing),
        "not in the model": left_over,
    }
    for title, names in entries.items():
        more = [f"… and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
        lines += [f"  {title}: {name}" for name in [*map(shown, names[:_SHOWN]), *more]]
    raise ValueError("\n".join(lines))


def _hints(file: Architecture, model: Architecture, *, is_classifier: bool) -> list[str]:
    """Which config keys the differences between the architectures call for."""
    hints = []
    if (file.depth, file.width) != (model.depth, model.width):
        hints.append(
            f"the file is a {_size(file)}, the model a {_size(model)}: take the config that goes with the file, "
            "or set MODEL.DEPTH, MODEL.EMBED_DIM and MODEL.NUM_HEADS"
        )
    elif file.num_heads and model.num_heads and file.num_heads != model.num_heads:
        hints.append(f"the file has {file.num_heads} heads, the model {model.num_heads}: set MODEL.NUM_HEADS")
    if file.mlp_width != model.mlp_width and file.width == model.width:
        hints.append(
            f"the MLP width of the file is {file.mlp_width}, of the model {model.mlp_width}: set MODEL.MLP_RATIO"
        )
    if file.pooling and model.pooling and file.pooling != model.pooling and is_classifier:
        is_mean = file.pooling == "mean"
        hints.append(
            f"the file classifies by {'fc_norm, the mean of patches' if is_mean else 'norm, the class token'}: "
            f"set MODEL.USE_MEAN_POOLING {is_mean}"
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
