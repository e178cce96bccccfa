"""`python -m beit check`: find what would stop or spoil a long run, before it starts.

Opens every image and every mask of both splits, compares the splits, and tries one step. The exit status is 1 if there are problems.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import paddle
from yacs.config import CfgNode

from beit.config import image_hw
from beit.cpu import tune_cpu
from beit.data.check import SplitReport, check_split, describe_split, overlap, shortened
from beit.data.classes_of_data import with_classes_of_data
from beit.data.dataset import ImageDataset
from beit.data.loader import WorkerError, worker_count
from beit.flags import Parser, config_from
from beit.logging import format_duration
from beit.optim.groups import describe_groups
from beit.parallel import ranks
from beit.printable import printable
from beit.tasks import TASKS, Task
from beit.tasks.task_keys import unread_keys
from beit.tools.arguments import config_parser, positive
from beit.train.recipe_check import check_recipe, describe_top5
from beit.train.step_check import dry_step, settings_without_effect, training_seconds
from beit.train.teacher import load_teacher

EXAMPLES = ("python -m beit check -cfg=demo_digits -data_path=digits -device=cpu",)
PROBLEMS = 1
"""Exit status when there are problems."""
_GIB = 2**30


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = config_parser("check", __doc__, EXAMPLES)
    parser.add_argument(
        "--ranks", type=positive, default=1, help="devices of the run, for the total batch (default: 1)"
    )
    parser.add_argument("--skip-pictures", action="store_true", help="do not open the images")
    parser.add_argument("--skip-step", action="store_true", help="do not try a step")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print facts and problems; returns 1 if there are problems, else 0."""
    given = build_parser().parse_args(argv)
    problems = check(config_from(given), given)
    if not problems:
        print("no problems found")
        return 0
    print(f"{len(problems)} problem(s):")
    print("\n".join(f"  {printable(line)}" for line in shortened(problems)))
    return PROBLEMS


def check(config: CfgNode, given: argparse.Namespace) -> list[str]:
    """Print facts on the data and the recipe; returns the problems.

    Args:
        config: of the run.
        given: the flags `ranks`, `skip_pictures` and `skip_step`.

    Raises:
        ValueError, OSError: the data cannot be read at all or the model cannot be built.
    """
    device = ranks.choose_device(config.DEVICE)
    paddle.set_device(device)
    if device == "cpu":
        print(tune_cpu())  # as a run does, so that the trial steps take the time of its steps
    config = with_classes_of_data(config)
    task = TASKS[config.TASK](config)
    problems: list[str] = []
    dataset = task.dataset("train")
    assert dataset is not None  # every task has training data
    if not given.skip_pictures:
        problems += _check_images(task)
    recipe = check_recipe(config, len(dataset), given.ranks)
    print("\n".join([*recipe.facts, *describe_top5(config)]))
    problems += recipe.problems
    task.freeze()
    problems += unread_keys(config) + settings_without_effect(task)
    print("parameter groups\n" + describe_groups(task.param_groups()))
    if not given.skip_step:
        try:
            load_teacher(task, dataset.images.class_names)
            _try_steps(task, dataset)
        except (ValueError, FloatingPointError, WorkerError) as error:
            if any(str(error).startswith(problem) for problem in problems):  # an image that is listed already
                print(f"time and memory are not measured: {error}")
            else:
                problems.append(str(error))
    return problems


def _try_steps(task: Task, dataset: ImageDataset) -> None:
    """Print time, memory and loss of trial steps, and the time of the whole training."""
    step = dry_step(task, dataset)
    val = task.dataset("val")
    seconds = training_seconds(task.config, step, len(dataset), 0 if val is None else len(val))
    print(
        f"dry step: {step.images} images in {step.seconds:.2f} s ({step.images / step.seconds:.1f} images/s), "
        f"{100 * step.wait_seconds / step.seconds:.0f} % of it waiting for data; peak {step.where} "
        f"{step.peak_bytes / _GIB:.2f} GiB; loss {step.loss:.4f}\n"
        f"training on one device of this machine takes about {format_duration(seconds)}"
    )


def _check_images(task: Task) -> list[str]:
    config = task.config
    num_classes = (
        config.MODEL.NUM_CLASSES if config.TASK in ("classify", "multilabel", "probe", "knn") else None
    )
    workers = worker_count(config.DATA.NUM_WORKERS)
    reports: dict[str, SplitReport] = {}
    problems: list[str] = []
    for split in ("train", "val"):
        dataset = task.dataset("train" if split == "train" else "val")
        if dataset is None:
            print(f"{split}: none")
            continue
        reports[split] = check_split(split, dataset, num_classes, min(image_hw(config)), workers=workers)
        print("\n".join(map(printable, describe_split(reports[split]))))
        problems += reports[split].problems
    if len(reports) == len(("train", "val")):
        shared = overlap(reports["train"], reports["val"])
        print(f"in both splits: {len(shared)} images")
        problems += [f"train and val overlap: {line}" for line in shared]
    return problems
