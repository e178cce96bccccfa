"""Total batch, steps and learning rates of a recipe, and settings that contradict each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from yacs.config import CfgNode

from beit.data.sampler import build_train_sampler
from beit.optim.schedule import make_schedules, run_length, warmup_length

_SMALLEST_RATE = {True: 1e-6, False: 1e-5}
"""Whether the run starts from given weights -> smallest peak rate of AdamW with which it learns. Published fine-tunings
take 2e-5 and more, trainings from random weights 5e-4 and more."""


@dataclass
class RecipeReport:
    """`facts` and `problems` as lines of text."""

    facts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def check_recipe(config: CfgNode, num_images: int, ranks: int) -> RecipeReport:
    """The numbers of a training run before it starts.

    Problems are a warm-up that is longer than the run, and a total batch that TRAIN.BASE_LR is not meant for.

    Args:
        config: of the run.
        num_images: training images.
        ranks: number of devices.
    """
    train = config.TRAIN
    sampler = build_train_sampler(config, num_images, world_size=ranks)
    total = sampler.step_size
    steps = run_length(config, sampler.steps_per_epoch)
    warmup = warmup_length(config, sampler.steps_per_epoch)
    report = RecipeReport(
        [
            f"total batch {total} = {ranks} device(s) x {config.DATA.BATCH_SIZE} x {train.ACCUM_ITER} micro-batch(es); "
            f"{sampler.steps_per_epoch} steps an epoch, {steps} in all, {warmup} of warm-up"
        ]
    )
    if warmup > steps:
        report.problems.append(
            f"the warm-up ({warmup} steps) is longer than the run ({steps}): fewer TRAIN.WARMUP_EPOCHS"
        )
        return report
    schedules = make_schedules(config, sampler.steps_per_epoch, total)
    peak = max(schedules(step)[0] for step in {0, max(warmup - 1, 0), min(warmup, steps - 1)})
    report.problems += rate_problems(config, peak)
    report.facts.append(f"learning rate: peak {peak:.3e}, last step {schedules(steps - 1)[0]:.3e}")
    report.problems += batch_problems(config, total)
    return report


def batch_problems(config: CfgNode, total: int) -> list[str]:
    """A line if the learning rate is for another total batch than `total`, and is not scaled to it."""
    train = config.TRAIN
    if train.TOTAL_BATCH in (None, total) or train.LINEAR_SCALED_LR:
        return []
    return [
        f"the rate {train.BASE_LR:g} is for a total batch of {train.TOTAL_BATCH}, this run has {total}: set "
        f"TRAIN.ACCUM_ITER, or scale it with -opts TRAIN.LINEAR_SCALED_LR {train.TOTAL_BATCH}"
    ]


def rate_problems(config: CfgNode, peak: float) -> list[str]:
    """A line if nothing is learned at the peak learning rate, with what to change.

    Args:
        config: of the run.
        peak: learning rate after the warm-up, scaled to the total batch.
    """
    train, has_weights = config.TRAIN, bool(config.MODEL.PRETRAINED or config.MODEL.RESUME)
    if peak >= _SMALLEST_RATE[has_weights] or config.TASK in ("probe", "knn"):
        return []
    start = "given" if has_weights else "random"
    cause = f" (TRAIN.BASE_LR {train.BASE_LR:g} is for {train.LINEAR_SCALED_LR} images a step)"
    return [
        f"almost nothing is learned from {start} weights with a peak rate of {peak:.1e}"
        f"{cause if train.LINEAR_SCALED_LR else ''}: set TRAIN.BASE_LR to about {'1e-4' if has_weights else '1e-3'} and "
        "TRAIN.LINEAR_SCALED_LR to None"
    ]


def describe_top5(config: CfgNode) -> list[str]:
    """A line if the top-5 accuracy says nothing."""
    count = config.MODEL.NUM_CLASSES
    is_trivial = config.TASK in ("classify", "probe", "knn") and count <= 5
    return (
        [f"with {count} classes top5 is 100 % for every model: only top1 tells how good one is"]
        if is_trivial
        else []
    )
