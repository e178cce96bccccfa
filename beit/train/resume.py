"""Writing a run's checkpoints and continuing from them."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from paddle import Tensor, nn
from yacs.config import CfgNode

from beit.card import CARD, write_card
from beit.checkpoint.adapter import (
    LORA_SCALE,
    Adapter,
    describe_base,
    digest,
    has_factors,
    header_of,
    merge_factors,
    own_tensors,
)
from beit.checkpoint.files import nonfinite_names, read_checkpoint, write, write_checkpoint
from beit.checkpoint.open import open_checkpoint
from beit.config import dump, flatten, with_options
from beit.containers.errors import CheckpointError, shown
from beit.metadata.files import RESULTS_KEY, RUN_CONFIG_KEY, TRAINING_IMAGES, run_metadata
from beit.optim.schedule import SCHEDULE_KEYS, make_schedules, run_length
from beit.parallel import ranks, sharding, watchdog
from beit.schema import SCHEMA
from beit.text_files import load_yaml
from beit.train.state import NonFiniteLossError, Training
from beit.train.state_check import check_state
from beit.zoo import path_of

LATEST, BEST, MODEL = "latest.pdparams", "best.pdparams", "model.pdparams"
"""Files in the output folder: the latest training state, the weights of the best evaluation, the final weights."""
ADAPTER, BEST_ADAPTER = "adapter.pdparams", "best_adapter.pdparams"
"""With MODEL.LORA: the tensors of these two that are not those of the base weights."""

_OF_THE_START = ("MODEL.PRETRAINED", "MODEL.PRETRAINED_KEY", "MODEL.RESUME", "TRAIN.LAST_EPOCH")
"""Keys that say where a run starts, and that a resumed run does not read."""


def save(run: Training, kind: str) -> None:
    """Write one of the run's files. Every rank calls it; rank 0 writes, atomically.

    `"latest"` is the full training state; `"epoch"` keeps it as `epoch_0012.pdparams` and removes the oldest files
    beyond `KEEP_LAST`; `"best"` and `"model"` are the current weights as a flat state dict that `paddle.load` and
    `-pretrained` read, with merged LoRA factors, and beside it the adapter, which holds what differs from the base.
    `"model"` also writes `card.md`.

    Raises:
        OSError: the disk is full or read-only; the previous file is untouched.
        NonFiniteLossError: a weight is NaN or infinite; the previous file is untouched.
    """
    folder = Path(run.config.SAVE)
    state = _state(run) if kind == "latest" else {}
    if ranks.rank() != 0:
        return
    if kind == "latest":
        _refuse_non_finite(run, state["model"], state["model_ema"] or {}, state["optimizer"])
        write_checkpoint(folder / LATEST, state)
    elif kind == "epoch":
        if not (folder / LATEST).exists():  # resumed at the end of an epoch, in a new folder
            write_checkpoint(folder / LATEST, _state(run))
        begun = -(-run.step // run.sampler.steps_per_epoch)  # TRAIN.MAX_STEPS may end a run within an epoch
        _keep_epoch(folder, begun, run.config.KEEP_LAST)
    else:
        weights = _arrays(run.task.model.state_dict())
        _refuse_non_finite(run, weights)
        write(folder / {"best": BEST, "model": MODEL}[kind], merge_factors(weights), metadata=_metadata(run))
        if has_factors(weights):
            _write_adapter(run, folder / {"best": BEST_ADAPTER, "model": ADAPTER}[kind], weights)
        # The weights of a probe classify features of another model, so a card would describe no model.
        if kind == "model" and run.config.TASK != "probe":
            write_card(folder / CARD, folder / MODEL)
    watchdog.heartbeat()


def restore(run: Training, paths: Sequence[Path]) -> None:
    """Load weights, average, optimizer, scaler, step and best score from the first undamaged of these checkpoints.

    A damaged one is named in the log, and the next is tried.

    Raises:
        ValueError: all are damaged; or the file is not a training checkpoint of this package, is of another model, or was
            written by a run with another order of images.
    """
    for path, is_last in zip(paths, [False] * (len(paths) - 1) + [True], strict=True):
        try:
            state = read_checkpoint(path)
        except CheckpointError as damage:
            if is_last:
                raise
            run.log.text(f"warning: {damage}. The checkpoint before it is taken, its steps are run again")
            continue
        _restore(run, path, state)
        return


def _write_adapter(run: Training, file: Path, weights: dict[str, np.ndarray]) -> None:
    adapter = run.adapter
    if adapter is None or digest(weights, adapter.tensors) != adapter.sha256:
        adapter = run.adapter = _describe_base(run, weights)
    write(file, own_tensors(weights, adapter), metadata=_metadata(run) | header_of(adapter))


def _describe_base(run: Training, weights: dict[str, np.ndarray]) -> Adapter:
    source, key = run.config.MODEL.PRETRAINED, run.config.MODEL.PRETRAINED_KEY
    path = path_of(source)
    base = open_checkpoint(path, key=key or None).state
    return describe_base(weights, base, name=source, path=path, key=key)


def _restore(run: Training, path: Path, state: Any) -> None:
    if not isinstance(state, Mapping) or "optimizer" not in state or "order" not in state:
        raise ValueError(
            f"{path} holds weights, not a training state; start a new run from them with -pretrained {path}"
        )
    state = {"since_best": 0, **state}  # checkpoints from before the entry was added
    check_state(path, state)
    _check_order(path, state["order"], _order(run))
    _load_model(run.task.model, state["model"], path)
    _check_base(run, path)
    names = _parameter_names(run)
    _load_part(
        path, lambda part: sharding.load_optimizer_state(run.optimizer, part, names), state["optimizer"]
    )
    if run.ema is not None:
        if state["model_ema"] is None:
            raise ValueError(f"{path} has no moving average; continue without TRAIN.MODEL_EMA")
        _load_part(path, run.ema.load_state_dict, state["model_ema"])
    if run.scaler.is_enable() and state["scaler"]:
        if state["scaler"].keys() != run.scaler.state_dict().keys():
            raise ValueError(
                f"{path} has the loss scaling of another version of Paddle; continue without -amp"
            )
        run.scaler.load_state_dict(state["scaler"])
    run.step, run.best, run.is_resumed = int(state["step"]), float(state["best"]), True
    run.since_best = state["since_best"]
    _report_changes(run, state["config"])


def _check_base(run: Training, path: Path) -> None:
    """Refuse a base of which the adapter that is continued has nothing: its file would hold all frozen weights too."""
    weights = _arrays(run.task.model.state_dict())
    if not has_factors(weights):
        return
    run.adapter = _describe_base(run, weights)
    frozen = {name for name, value in run.task.model.named_parameters() if value.stop_gradient}
    if frozen.isdisjoint(run.adapter.tensors):
        raise ValueError(
            f"{path} adapts other weights than those of MODEL.PRETRAINED={run.config.MODEL.PRETRAINED}; name the weights "
            "that the run started from with -pretrained"
        )


def _load_part(path: Path, load: Callable[[Any], None], part: Any) -> None:
    try:
        load(part)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _report_changes(run: Training, stored: str) -> None:
    """Log the settings that differ from those of the checkpoint, and a jump of the schedules."""
    changes = _changed_settings(stored, run.config)
    described = {key: f"{key} {before} -> {now}" for key, (before, now) in changes.items()}
    if described:
        run.log.text(f"settings that differ from the checkpoint's: {', '.join(described.values())}")
    options = [
        item
        for key, (before, _) in changes.items()
        if key.removeprefix("TRAIN.") in SCHEDULE_KEYS
        for item in (key, before)
    ]
    steps, total = run.sampler.steps_per_epoch, run.sampler.step_size
    if not options or run.step >= run_length(run.config, steps):
        return
    old, new = (
        make_schedules(config, steps, total)(run.step)
        for config in (with_options(run.config, options), run.config)
    )
    causes = ", ".join(described[key] for key in options[::2])
    for name, before, now in zip(("learning rate", "weight decay"), old, new, strict=True):
        if before != now:
            run.log.text(
                f"warning: the {name} jumps at step {run.step} from {before:.3e}, where the schedule of the checkpoint "
                f"goes on, to {now:.3e}: {causes}"
            )


def _changed_settings(stored: str, config: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Stored and current value of each key that a resumed run may change, where they differ.

    A key that did not exist when the checkpoint was written has its default there.
    """
    before, now = flatten(load_yaml(stored)), flatten(load_yaml(dump(config)))
    defaults = {
        key: list(entry.default) if isinstance(entry.default, tuple) else entry.default
        for key, entry in SCHEMA.items()
    }
    return {
        key: (before.get(key, defaults[key]), value)
        for key, value in now.items()
        if ("." in key or key == "AMP")
        and key not in _OF_THE_START
        and before.get(key, defaults[key]) != value
    }


def find_checkpoints(config: CfgNode) -> list[Path]:
    """The checkpoints that `MODEL.RESUME` names; for `auto` those of the output folder, newest first, maybe none.

    Raises:
        FileNotFoundError: a named file does not exist.
    """
    wanted = config.MODEL.RESUME
    if not wanted:
        return []
    if wanted == "auto":
        latest = Path(config.SAVE) / LATEST
        return [path for path in (latest, *reversed(kept_epochs(Path(config.SAVE)))) if path.is_file()]
    if not Path(wanted).is_file():
        raise FileNotFoundError(
            f"-resume {wanted}: no such file; -resume auto takes the newest of {config.SAVE}"
        )
    return [Path(wanted)]


def _state(run: Training) -> dict[str, Any]:
    """The training state on rank 0; empty on the others, which send their part of a sharded optimizer state."""
    optimizer = sharding.optimizer_state(run.optimizer, _parameter_names(run))
    if ranks.rank() != 0:
        return {}
    scaler = run.scaler.state_dict() if run.scaler.is_enable() else {}
    metadata = _metadata(run)
    return {
        "model": _arrays(run.task.model.state_dict()),
        "model_ema": _arrays(run.ema.state_dict()) if run.ema is not None else None,
        "optimizer": optimizer,
        "scaler": {name: _plain(value) for name, value in scaler.items()},
        "step": run.step,
        "best": run.best,
        "since_best": run.since_best,
        "order": _order(run),
        "config": metadata.pop(RUN_CONFIG_KEY),
        **metadata,
    }


def _metadata(run: Training) -> dict[str, str]:
    # Without the speed, so that a run that was interrupted writes the same bytes.
    results = {
        name: value
        for name, value in run.metrics.items()
        if name not in ("count", "images_per_second") and math.isfinite(value)
    }
    texts = run_metadata(dump(run.config), run.dataset.images.class_names, run.task.palette)
    return texts | {RESULTS_KEY: json.dumps({**results, TRAINING_IMAGES: len(run.dataset)})}


def _refuse_non_finite(run: Training, *states: Mapping[str, np.ndarray]) -> None:
    bad = [name for state in states for name in nonfinite_names(state)]
    if bad:
        raise NonFiniteLossError(
            f"NaN or infinity in {len(bad)} tensors at step {run.step}, first {bad[0]}: not saved, the newest "
            f"checkpoint in {run.config.SAVE} is from before. Lower TRAIN.BASE_LR or set TRAIN.GRAD_CLIP, and "
            "continue with -resume auto"
        )


def _order(run: Training) -> dict[str, int | str]:
    """What determines the order of images. Ranks, batch size and accumulation count only through their product."""
    return {
        "images": run.sampler.length,
        "list of images": run.dataset.images.fingerprint(),
        "total batch": run.sampler.step_size,
        "SEED": run.config.SEED,
        "TRAIN.REPEATED_AUG": run.config.TRAIN.REPEATED_AUG,
        "TRAIN.DROP_LAST": run.config.TRAIN.DROP_LAST,
    }


def _check_order(path: Path, stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    stored = {"TRAIN.DROP_LAST": True, **stored}  # checkpoints from before the key was added
    changed = [
        f"{name} {stored.get(name)} -> {value}"
        for name, value in current.items()
        if stored.get(name) != value
    ]
    if changed:
        raise ValueError(
            f"{path} cannot be continued exactly, the data changed: {', '.join(changed)}. Ranks, batch size and "
            "TRAIN.ACCUM_ITER may change as long as their product stays; to go on with other data start a new run "
            f"with -pretrained {path} and another -output"
        )


def _load_model(model: nn.Layer, stored: Mapping[str, np.ndarray], path: Path) -> None:
    own = model.state_dict()
    lines = [f"missing {name}" for name in own if name not in stored]
    lines += [f"unknown {shown(name)}" for name in stored if name not in own]
    lines += [
        f"{name} is {list(stored[name].shape)}, the model has {list(value.shape)}"
        for name, value in own.items()
        if name in stored and list(stored[name].shape) != list(value.shape)
    ]
    lines += [
        f"{name} is {stored[name].dtype}, the model has {_dtype(value)}"
        for name, value in own.items()
        if name in stored and str(stored[name].dtype) != _dtype(value)
    ]
    lines += [
        f"{name}, MODEL.LORA.ALPHA / RANK, is {float(stored[name]):g}, the config's is {float(value):g}"
        for name, value in own.items()
        if name.endswith(LORA_SCALE)
        and name in stored
        and stored[name].size == 1
        and float(stored[name]) != float(value)
    ]
    if lines:
        more = f" and {len(lines) - 5} more" if len(lines) > 5 else ""
        raise ValueError(f"{path} is of another model than the config: {'; '.join(lines[:5])}{more}")
    for name, value in own.items():
        value.set_value(stored[name])


def _keep_epoch(folder: Path, epoch: int, keep: int) -> None:
    """Keep the latest state under the epoch's name (as a hard link where possible) and remove the oldest."""
    target = folder / f"epoch_{epoch:04d}.pdparams"
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(folder / LATEST, partial)
    except OSError:  # a file system without hard links
        shutil.copyfile(folder / LATEST, partial)
    partial.replace(target)
    partial.unlink(missing_ok=True)  # rename does nothing if both names are links to the same file
    for old in kept_epochs(folder)[:-keep]:
        old.unlink()


def kept_epochs(folder: Path) -> list[Path]:
    """The checkpoints of epochs in an output folder, oldest first."""
    return sorted(folder.glob("epoch_[0-9]*.pdparams"), key=lambda path: (len(path.name), path.name))


def _parameter_names(run: Training) -> dict[str, str]:
    return {parameter.name: name for name, parameter in run.task.model.named_parameters()}


def _arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in state.items()}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("paddle.")


def _plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value
