"""Learning-rate and weight-decay schedules: pure functions from the optimizer step to a value."""

from __future__ import annotations

import math
from collections.abc import Callable

from yacs.config import CfgNode


def cosine(step: float, start: float, end: float, total_steps: int) -> float:
    """Half cosine from `start` at step 0 to `end` at `total_steps`, constant afterwards.

    The last step of a run is `total_steps - 1`, so its value is still (start - end) * sin(pi / (2 n))^2 above `end`,
    about 2.5 (start - end) / n^2 for n steps.

    Source: unilm/beit/utils.py `cosine_scheduler`, used for learning rate and weight decay.

    Args:
        step: number of optimizer steps already done; 0 for the first one. It need not be a whole number.
        start: value at step 0.
        end: value at `total_steps`.
        total_steps: optimizer steps of the whole run.

    Raises:
        ValueError: `step` or `total_steps` is negative.
    """
    _check_range(step, 0, total_steps)
    if step >= total_steps:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / total_steps))


def warmup_cosine(
    step: float, *, peak: float, end: float, start: float = 0.0, warmup_steps: int, total_steps: int
) -> float:
    """Linear warm-up from `start` to `peak`, then a half cosine to `end`.

    Steps are counted as in the official code: the warm-up includes both of its ends, so two steps have the value
    `peak`, the last one of the warm-up (`warmup_steps - 1`) and the first one of the cosine. A warm-up of one step has
    the value `start`. The last step of the run is slightly above `end` (see `cosine`).

    Source: unilm/beit/utils.py `cosine_scheduler`.

    Args:
        step: number of optimizer steps already done; 0 for the first one. It need not be a whole number.
        peak: value after the warm-up.
        end: value at `total_steps`.
        start: value at step 0 (0 in every published run; the official code ignores its `--warmup_lr`).
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the whole run, warm-up included.

    Raises:
        ValueError: a count is negative, or the warm-up is longer than the run.
    """
    _check_range(step, warmup_steps, total_steps)
    if step >= warmup_steps:
        return cosine(step - warmup_steps, peak, end, total_steps - warmup_steps)
    if warmup_steps == 1:
        return start
    # Bit for bit as numpy.linspace: a rounded increment times the step, and an exact last value.
    if step >= warmup_steps - 1:
        return peak
    return start + step * ((peak - start) / (warmup_steps - 1))


def warmup_poly(
    step: float, *, peak: float, end: float, start: float = 0.0, warmup_steps: int, total_steps: int
) -> float:
    """A straight line from `peak` to `end`, multiplied by a warm-up factor that rises linearly from `start / peak` to 1.

    The decay starts at step 0, not after the warm-up, so the largest value is slightly below `peak`.

    Source: segmentation recipe of BEiT (`policy="poly"`, `warmup="linear"`); mmcv/runner/hooks/lr_updater.py
    `PolyLrUpdaterHook` and `LrUpdaterHook.get_warmup_lr`.

    Args:
        step: number of optimizer steps already done; 0 for the first one. It need not be a whole number.
        peak: start value of the line.
        end: value at `total_steps` and after.
        start: value at step 0.
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the whole run, warm-up included.

    Raises:
        ValueError: a count is negative, or the warm-up is longer than the run.
    """
    _check_range(step, warmup_steps, total_steps)
    if step >= total_steps:
        return end
    value = (peak - end) * (1 - step / total_steps) + end
    if step < warmup_steps:
        ratio = start / peak if peak else 0.0
        value *= 1 - (1 - step / warmup_steps) * (1 - ratio)
    return value


def scaled_lr(base_lr: float, reference_batch: int, total_batch: int) -> float:
    """Learning rate for another batch size by the linear rule: `base_lr * (total_batch / reference_batch)`.

    Source: Goyal et al. 2017, section 2.1. The BEiT recipes state the rate and the total batch and use no such rule;
    a quarter of the batch with the same rate lowers the accuracy (unilm issue 391).

    Args:
        base_lr: learning rate of the recipe.
        reference_batch: total batch of the recipe, in images per optimizer step.
        total_batch: images per optimizer step of this run: per rank x ranks x accumulation.

    Raises:
        ValueError: a batch size is not positive.
    """
    if reference_batch < 1 or total_batch < 1:
        raise ValueError(
            f"Scaling a learning rate needs batch sizes of at least 1; got reference_batch={reference_batch} "
            f"and total_batch={total_batch}"
        )
    return base_lr * (total_batch / reference_batch)


def _check_range(step: float, warmup_steps: int, total_steps: int) -> None:
    if step < 0 or warmup_steps < 0 or total_steps < 0:
        raise ValueError(
            f"A schedule counts steps from 0; got step={step}, warmup_steps={warmup_steps}, "
            f"total_steps={total_steps}"
        )
    if warmup_steps > total_steps:
        raise ValueError(
            f"The warm-up ({warmup_steps} steps) is longer than the whole run ({total_steps} steps); "
            "train longer or warm up for fewer epochs"
        )


SCHEDULE_KEYS = (
    "NUM_EPOCHS",
    "MAX_STEPS",
    "WARMUP_EPOCHS",
    "WARMUP_STEPS",
    "SCHEDULE",
    "SCHEDULE_OFFSET",
    "LR_PER_EPOCH",
    "WARMUP_START_LR",
    "BASE_LR",
    "END_LR",
    "LINEAR_SCALED_LR",
    "WEIGHT_DECAY",
    "WEIGHT_DECAY_END",
)
"""Keys of `TRAIN` that the functions below read."""


def make_schedules(
    config: CfgNode, steps_per_epoch: int, total_batch: int
) -> Callable[[int], tuple[float, float]]:
    """A function from the step to its learning rate and weight decay.

    Both change with every step, as in the official code, or once per epoch with `TRAIN.LR_PER_EPOCH`.

    Args:
        config: its keys `TRAIN.*` are read.
        steps_per_epoch: optimizer steps of an epoch.
        total_batch: images per optimizer step, for `TRAIN.LINEAR_SCALED_LR`.
    """
    train = config.TRAIN
    reference = train.LINEAR_SCALED_LR or total_batch
    peak, end, start = (
        scaled_lr(lr, reference, total_batch) for lr in (train.BASE_LR, train.END_LR, train.WARMUP_START_LR)
    )
    total_steps = run_length(config, steps_per_epoch)
    warmup_steps = warmup_length(config, steps_per_epoch)
    rate = {"cosine": warmup_cosine, "poly": warmup_poly}[train.SCHEDULE]
    end_decay = train.WEIGHT_DECAY if train.WEIGHT_DECAY_END is None else train.WEIGHT_DECAY_END

    def values(step: int) -> tuple[float, float]:
        if train.LR_PER_EPOCH:
            step -= step % steps_per_epoch
        at = step + train.SCHEDULE_OFFSET
        lr = rate(at, peak=peak, end=end, start=start, warmup_steps=warmup_steps, total_steps=total_steps)
        return lr, cosine(at, train.WEIGHT_DECAY, end_decay, total_steps)

    return values


def run_length(config: CfgNode, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: TRAIN.MAX_STEPS if set, else those of TRAIN.NUM_EPOCHS."""
    train = config.TRAIN
    return train.MAX_STEPS if train.MAX_STEPS is not None else steps_per_epoch * train.NUM_EPOCHS


def warmup_length(config: CfgNode, steps_per_epoch: int) -> int:
    """Optimizer steps of the warm-up: TRAIN.WARMUP_STEPS if set, else those of TRAIN.WARMUP_EPOCHS."""
    train = config.TRAIN
    return (
        train.WARMUP_STEPS if train.WARMUP_STEPS is not None else int(train.WARMUP_EPOCHS * steps_per_epoch)
    )
