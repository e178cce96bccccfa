"""Loads a checkpoint of any publisher into a model, or says what does not fit. Nothing is loaded in part."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from beit.checkpoint.adapt import Changes, Shapes, adapt
from beit.checkpoint.canonical import TABLE, Architecture, State, describe, kind_of
from beit.checkpoint.files import describe_nonfinite
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.report import LoadReport, report_of
from beit.checkpoint.translate import Checkpoint, CheckpointInfo
from beit.containers.errors import shown
from beit.positions import Interpolation
from beit.preprocessing import Preprocessing

_STRIP = 64  # columns: a strip of a large matrix stays in the cache
_SHOWN = 12  # lines of each list in an error


def load_pretrained(
    model: paddle.nn.Layer,
    path_or_state: str | Path | Mapping[str, object] | Checkpoint,
    *,
    ema: bool | None = None,
    key: str | None = None,
    interpolation: Interpolation = "geometric",
    allow_missing: Sequence[str] = (),
    require_finite: bool = True,
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
        path_or_state,
        {name: tuple(tensor.shape) for name, tensor in current.items()},
        grid=_grid(model),
        ema=ema,
        key=key,
        interpolation=interpolation,
        allow_missing=allow_missing,
        require_finite=require_finite,
    )
    # Tensors that keep their values are passed as well, so that Paddle does not report them as missing.
    model.set_state_dict({name: state.get(name, tensor) for name, tensor in current.items()})
    if "head.weight" not in report.new:  # a model with a new head will be trained, as its config says
        _attach_metadata(model, report.info)
    return report


def fit(
    path_or_state: str | Path | Mapping[str, object] | Checkpoint,
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
        shapes: of the model's tensors by canonical name.
        grid: (h, w) of the model in patches; None for one without patches, or for a square one.
        path_or_state, ema, key, interpolation, allow_missing, require_finite: as in `load_pretrained`.

    Raises:
        ValueError: the contents do not fit the model; or as `load_pretrained`.
    """
    state, info = open_checkpoint(path_or_state, ema=ema, key=key)
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
    non_finite = tuple(describe_nonfinite(state))
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
    placeholders = {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}
    target = describe(placeholders, kind_of(shapes))
    lines = [
        f"{info.name} ({info.publisher} {info.kind}) does not fit the model, which is left as it was",
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
