"""Learning-rate and weight-decay schedules: pure functions from the optimizer step to a value."""

from __future__ import annotations

import math
from collections.abc import Callable

from yacs.config import CfgNode


def cosine(step: int, start: float, end: float, total_steps: int) -> float:
    """Half cosine from `start` at step 0 towards `end`, reached at `total_steps` and held after it.

    The last step of a run is `total_steps - 1`, so its value still lies (start - end) * sin(pi / (2 n))^2
    above `end`, about 2.5 (start - end) / n^2 for n steps.

    Source: unilm/beit/utils.py `cosine_scheduler`, which serves learning rate and weight decay alike.

    Args:
        step: optimizer steps done before this one, from 0.
        start: value at step 0.
        end: value at `total_steps`.
        total_steps: optimizer steps of the whole run.

    Raises:
        ValueError: when `step` or `total_steps` is negative.
    """
    _check_range(step, 0, total_steps)
    if step >= total_steps:
        return end
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / total_steps))


def warmup_cosine(
    step: int, *, peak: float, end: float, start: float = 0.0, warmup_steps: int, total_steps: int
) -> float:
    """Linear warm-up from `start` to `peak`, then the half cosine to `end`.

    The official schedule, including its counting: the warm-up holds both of its ends, so `peak` is used
    twice, by the last warm-up step (`warmup_steps - 1`) and by the first cosine step; a warm-up of a single
    step is `start` alone. The last step of the run lies a little above `end` (see `cosine`).

    Source: unilm/beit/utils.py `cosine_scheduler`.

    Args:
        step: optimizer steps done before this one, from 0.
        peak: value after the warm-up.
        end: value the cosine tends to.
        start: value of step 0 (0 in every published run; the official `--warmup_lr` is never read).
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the whole run, warm-up included.

    Raises:
        ValueError: when a count is negative or the warm-up is longer than the run.
    """
    _check_range(step, warmup_steps, total_steps)
    if step >= warmup_steps:
        return cosine(step - warmup_steps, peak, end, total_steps - warmup_steps)
    if warmup_steps == 1:
        return start
    # The multiplication by a rounded increment, and the exact last value, are how numpy.linspace computes it.
    if step == warmup_steps - 1:
        return peak
    return start + step * ((peak - start) / (warmup_steps - 1))


def warmup_poly(
    step: int,
    *,
    peak: float,
    end: float = 0.0,
    ratio: float = 1e-6,
    warmup_steps: int,
    total_steps: int,
    power: float = 1.0,
) -> float:
    """Polynomial decay from `peak` to `end`, under a warm-up factor that rises from `ratio` to 1.

    The decay runs from step 0, also under the warm-up, so the largest value is a little below `peak`.

    Source: segmentation recipe of BEiT (`policy="poly"`, `warmup="linear"`); mmcv/runner/hooks/lr_updater.py
    `PolyLrUpdaterHook` and `LrUpdaterHook.get_warmup_lr`.

    Args:
        step: optimizer steps done before this one, from 0.
        peak: value the decay starts from.
        end: value at `total_steps` and after.
        ratio: factor of the warm-up at step 0.
        warmup_steps: optimizer steps of the warm-up.
        total_steps: optimizer steps of the whole run, warm-up included.
        power: exponent of the decay; 1 is a straight line.

    Raises:
        ValueError: when a count is negative or the warm-up is longer than the run.
    """
    _check_range(step, warmup_steps, total_steps)
    if step >= total_steps:
        return end
    value = (peak - end) * (1 - step / total_steps) ** power + end
    if step < warmup_steps:
        value *= 1 - (1 - step / warmup_steps) * (1 - ratio)
    return value


def scaled_lr(base_lr: float, reference_batch: int, total_batch: int) -> float:
    """Learning rate for `total_batch` by the linear rule: `base_lr * total_batch / reference_batch`.

    Source: Goyal et al. 2017, section 2.1. The BEiT recipes state absolute rates for a stated total batch
    and use no rule themselves; an unscaled rate at a quarter of the batch costs points (unilm issue 391).

    Args:
        base_lr: rate the recipe gives.
        reference_batch: total batch the recipe gives it for (images per optimizer step).
        total_batch: images per optimizer step here: per rank x ranks x accumulation.

    Raises:
        ValueError: when a batch size is not positive.
    """
    if reference_batch < 1 or total_batch < 1:
        raise ValueError(
            f"Scaling a learning rate needs batch sizes of at least 1; got reference_batch={reference_batch} "
            f"and total_batch={total_batch}"
        )
    return base_lr * total_batch / reference_batch


def _check_range(step: int, warmup_steps: int, total_steps: int) -> None:
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


def make_schedules(
    config: CfgNode, steps_per_epoch: int, total_batch: int
) -> Callable[[int], tuple[float, float]]:
    """Function from the step to its learning rate and weight decay (per step, as the official code)."""
    train = config.TRAIN
    factor = total_batch / train.LINEAR_SCALED_LR if train.LINEAR_SCALED_LR else 1.0
    total_steps = run_length(config, steps_per_epoch)
    warmup_steps = warmup_length(config, steps_per_epoch)
    rate = {"cosine": warmup_cosine, "poly": _warmup_poly}[train.SCHEDULE]
    end_decay = train.WEIGHT_DECAY if train.WEIGHT_DECAY_END is None else train.WEIGHT_DECAY_END

    def values(step: int) -> tuple[float, float]:
        if train.LR_PER_EPOCH:
            step -= step % steps_per_epoch
        lr = rate(
            step,
            peak=train.BASE_LR * factor,
            end=train.END_LR * factor,
            start=train.WARMUP_START_LR * factor,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
        )
        return lr, cosine(step, train.WEIGHT_DECAY, end_decay, total_steps)

    return values


def _warmup_poly(
    step: int, *, peak: float, end: float, start: float, warmup_steps: int, total_steps: int
) -> float:
    """`warmup_poly` with the arguments of `warmup_cosine`: the warm-up's first factor is `start / peak`."""
    ratio = start / peak if peak else 0.0
    return warmup_poly(
        step, peak=peak, end=end, ratio=ratio, warmup_steps=warmup_steps, total_steps=total_steps
    )


def run_length(config: CfgNode, steps_per_epoch: int) -> int:
    """Steps of the whole run: TRAIN.MAX_STEPS where it is given, else TRAIN.NUM_EPOCHS."""
    train = config.TRAIN
    return train.MAX_STEPS if train.MAX_STEPS is not None else steps_per_epoch * train.NUM_EPOCHS


def warmup_length(config: CfgNode, steps_per_epoch: int) -> int:
    """Steps of the warm-up: TRAIN.WARMUP_STEPS where it is given, else TRAIN.WARMUP_EPOCHS."""
    train = config.TRAIN
    return (
        train.WARMUP_STEPS if train.WARMUP_STEPS is not None else int(train.WARMUP_EPOCHS * steps_per_epoch)
    )
