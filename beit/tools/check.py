"""`python -m beit check`: what would stop or spoil a long run, found before it.

Opens every picture of both splits, compares them, and tries one step. Status 1 when there are problems.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import paddle
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.check import SplitReport, check_split, describe_split, overlap, shortened
from beit.data.sampler import TrainSampler
from beit.optim.groups import describe_groups
from beit.optim.schedule import make_schedules, run_length, warmup_length
from beit.parallel import ranks
from beit.tasks import TASKS, Task
from beit.tools.arguments import CONFIG_FLAGS, verb_parser, with_config
from beit.train.step_check import dry_step, settings_without_effect

EXAMPLES = ("python -m beit check -cfg=demo_digits -data_path=digits -device=cpu",)
PROBLEMS = 1
"""Exit status when the run should not be started like this."""
_GIB = 2**30


def main(argv: Sequence[str] | None = None) -> int:
    """Print what was found; 1 when there are problems."""
    parser = verb_parser("check", f"{__doc__}\n{CONFIG_FLAGS}", EXAMPLES)
    parser.add_argument(
        "--ranks", type=int, default=1, help="devices of the run, for the total batch (default: 1)"
    )
    parser.add_argument("--skip-pictures", action="store_true", help="do not open every picture")
    parser.add_argument("--skip-step", action="store_true", help="do not try a step")
    given, config = with_config(parser, argv)
    problems = check(config, given)
    if not problems:
        print("no problems found")
        return 0
    print(f"{len(problems)} problem(s):")
    print("\n".join(f"  {line}" for line in shortened(problems)))
    return PROBLEMS


def check(config: CfgNode, given: argparse.Namespace) -> list[str]:
    """Print facts on data and recipe; the problems.

    Raises:
        ValueError, OSError: the data cannot be read at all or the model cannot be built.
    """
    paddle.set_device(ranks.choose_device(config.DEVICE))
    task = TASKS[config.TASK](config)
    problems: list[str] = []
    dataset = task.dataset("train")
    assert dataset is not None  # each task trains on something
    if not given.skip_pictures:
        problems += _check_pictures(task)
    problems += _check_recipe(task, len(dataset), given.ranks)
    if config.TRAIN.FREEZE_LAYERS:
        task.model.freeze_layers(config.TRAIN.FREEZE_LAYERS)
    problems += settings_without_effect(task)
    print("parameter groups\n" + describe_groups(task.param_groups()))
    if not given.skip_step:
        step = dry_step(task, dataset)
        batch = min(config.DATA.BATCH_SIZE, len(dataset))
        print(
            f"dry step: {batch} images in {step.seconds:.2f} s ({batch / step.seconds:.1f} images/s), read in "
            f"{step.load_seconds:.2f} s by one process; peak {step.where} {step.peak_bytes / _GIB:.2f} GiB; "
            f"loss {step.loss:.4f}"
        )
    return problems


def _check_pictures(task: Task) -> list[str]:
    config = task.config
    num_classes = config.MODEL.NUM_CLASSES if config.TASK in ("classify", "probe", "knn") else None
    workers = min(config.DATA.NUM_WORKERS, os.cpu_count() or 1)
    reports: dict[str, SplitReport] = {}
    problems: list[str] = []
    for split in ("train", "val"):
        dataset = task.dataset("train" if split == "train" else "val")
        if dataset is None:
            print(f"{split}: none")
            continue
        reports[split] = check_split(split, dataset, num_classes, min(image_hw(config)), workers=workers)
        print("\n".join(describe_split(reports[split])))
        problems += reports[split].problems
    if len(reports) == len(("train", "val")):
        shared = overlap(reports["train"], reports["val"])
        print(f"in both splits: {len(shared)} pictures")
        problems += [f"train and val overlap: {line}" for line in shared]
    return problems


def _check_recipe(task: Task, images: int, ranks: int) -> list[str]:
    """Print total batch, steps and rates; contradictions between them."""
    config = task.config
    train = config.TRAIN
    sampler = TrainSampler(
        images, batch_size=config.DATA.BATCH_SIZE, accum_iter=train.ACCUM_ITER, world_size=ranks
    )
    total = sampler.step_size
    steps = run_length(config, sampler.steps_per_epoch)
    warmup = warmup_length(config, sampler.steps_per_epoch)
    print(
        f"total batch {total} = {ranks} device(s) x {config.DATA.BATCH_SIZE} x {train.ACCUM_ITER} micro-batch(es); "
        f"{sampler.steps_per_epoch} steps an epoch, {steps} in all, {warmup} of warm-up"
    )
    if warmup > steps:
        return [f"the warm-up ({warmup} steps) is longer than the run ({steps}): fewer TRAIN.WARMUP_EPOCHS"]
    schedules = make_schedules(config, sampler.steps_per_epoch, total)
    peak = max(schedules(step)[0] for step in {0, max(warmup - 1, 0), min(warmup, steps - 1)})
    print(f"learning rate: peak {peak:.3e}, last step {schedules(steps - 1)[0]:.3e}")
    if train.TOTAL_BATCH and total != train.TOTAL_BATCH and not train.LINEAR_SCALED_LR:
        return [
            f"the rate {train.BASE_LR:g} is for a total batch of {train.TOTAL_BATCH}, this run has {total}: set "
            f"TRAIN.ACCUM_ITER, or scale it with -opts TRAIN.LINEAR_SCALED_LR {train.TOTAL_BATCH}"
        ]
    return []
