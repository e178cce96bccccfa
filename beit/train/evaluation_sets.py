"""A classifier on several test sets, each evaluated as `beit evaluate` does, in one table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.config import with_options
from beit.data.archive_folders import is_folder, sub_folders
from beit.data.classes_of_data import with_classes_of_data
from beit.data.image_list import require_files
from beit.files import write_text
from beit.logging import format_table
from beit.parallel import ranks
from beit.tasks import TASKS, Task
from beit.train.entry import launch_or_run

ALEXNET_ERRORS = {
    "gaussian_noise": 88.6428, "shot_noise": 89.4468, "impulse_noise": 92.2640, "defocus_blur": 81.9880,
    "glass_blur": 82.6268, "motion_blur": 78.5948, "zoom_blur": 79.8360, "snow": 86.6816, "frost": 82.6572,
    "fog": 81.9324, "brightness": 56.4592, "contrast": 85.3204, "elastic_transform": 64.6056, "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}  # fmt: skip
"""Top-1 errors of AlexNet in percent, means over the five severities, by which the mean corruption error is weighted.
Source: Hendrycks and Dietterich 2019, arXiv 1903.12261, to more digits in google-research/augmix, imagenet.py."""

VALIDATION = "val"
"""Name of the validation images of the config among the sets."""
_SEVERITIES = {"1", "2", "3", "4", "5"}
_COLUMNS = ("images", "top1", "error", "top5", "ece", "ce")

Row = dict[str, float]
"""Results by the names in `_COLUMNS`; a result that a set does not have is missing."""


class EvaluationSet(NamedTuple):
    """Images to evaluate: the options that choose them, and for a corruption its name and that of its set."""

    name: str
    options: tuple[Any, ...] = ()
    corruption: str = ""
    group: str = ""


def evaluate_sets(config: CfgNode, words: Sequence[str]) -> int:
    """Evaluate the sets, print the table and write it as `sets.json` into `SAVE`; returns the exit status.

    Each set has an output folder of its own in `SAVE`.

    Args:
        config: of the evaluation.
        words: as `find_sets` takes them.

    Raises:
        ValueError, FileNotFoundError: as `find_sets`, or as the evaluation of a set.
    """
    if not config.MODEL.PRETRAINED:
        raise ValueError("--sets needs the weights to evaluate: -pretrained FILE")
    if ranks.is_launched_rank():
        raise ValueError("--sets starts the ranks of each set itself: use -nprocs instead of a launcher")
    found: dict[EvaluationSet, Mapping[str, Any]] = {}
    configs = {
        one: with_options(config, [*one.options, "SAVE", str(Path(config.SAVE) / one.name)])
        for one in find_sets(config, words)
    }
    _require_images(configs)
    for one, own in configs.items():
        output = Path(own.SAVE)
        status = launch_or_run(own, single=False)
        if status:
            return status
        found[one] = json.loads((output / "eval.json").read_text(encoding="utf-8"))
    rows = table_rows(found)
    content = {"weights": config.MODEL.PRETRAINED, "sets": rows}
    write_text(Path(config.SAVE) / "sets.json", json.dumps(content, indent=2) + "\n")
    print(format_sets(rows))
    return 0


def find_sets(config: CfgNode, words: Sequence[str]) -> list[EvaluationSet]:
    """The sets that are named on the command line.

    Args:
        config: of the evaluation.
        words: `val` for the validation images of the config, or `NAME=PATH`. The path is that of `real.json`, of a folder of
            class folders, or of ImageNet-C: `<corruption>/<severity>/<class>/`.

    Raises:
        ValueError: the task is not classification, or a word has another form or a name that occurs twice.
        FileNotFoundError: there is nothing at a path.
    """
    if config.TASK != "classify":
        raise ValueError(f"--sets is for TASK: classify; the config has TASK: {config.TASK}")
    sets: list[EvaluationSet] = []
    names = [word.partition("=")[0] for word in words]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"--sets names {', '.join(twice)} twice; choose different names")
    for word in words:
        if word == VALIDATION:
            sets.append(EvaluationSet(word))
            continue
        if not re.fullmatch(r"\w[\w.-]*=.+", word):
            raise ValueError(f"--sets {word}: expected {VALIDATION} or NAME=PATH, such as r=imagenet-r")
        name, _, path = word.partition("=")
        sets += _sets_of(name, Path(path))
    return sets


def table_rows(found: Mapping[EvaluationSet, Mapping[str, Any]]) -> dict[str, Row]:
    """The row of each set by its name, and for corruptions one of each and one of their mean.

    `error` is 100 - top-1 and `ce` the error relative to AlexNet's, both in percent. The mean is over the 15 corruptions of
    `ALEXNET_ERRORS`, or over all corruptions if none is one of them; its `ce` is the mean corruption error, if all 15 are
    there.

    Args:
        found: the metrics of each set.
    """
    rows: dict[str, Row] = {}
    severities: dict[tuple[str, str], list[Row]] = {}
    for one, metrics in found.items():
        row = {"images": metrics["count"], "error": 100 - metrics["top1"]}
        row |= {name: metrics[name] for name in ("top1", "top5", "ece") if name in metrics}
        if one.corruption:
            severities.setdefault((one.group, one.corruption), []).append(row)
        else:
            rows[one.name] = row
    for group in dict.fromkeys(group for group, _ in severities):
        means = {name: _mean(values) for (own, name), values in severities.items() if own == group}
        for name in means.keys() & ALEXNET_ERRORS.keys():
            means[name]["ce"] = 100 * means[name]["error"] / ALEXNET_ERRORS[name]
        counted = [row for name, row in means.items() if name in ALEXNET_ERRORS] or list(means.values())
        rows |= {f"{group}/{name}": row for name, row in means.items()}
        rows[group] = _mean(counted)
        if not means.keys() >= ALEXNET_ERRORS.keys():
            rows[group].pop("ce", None)
    return rows


def format_sets(rows: Mapping[str, Row]) -> str:
    """The table as aligned lines."""
    lines: list[Sequence[str]] = [("set", *_COLUMNS)]
    for name, row in rows.items():
        cells = ["" if column not in row else f"{row[column]:.2f}" for column in _COLUMNS[1:]]
        lines.append((name, f"{int(row['images'])}", *cells))
    return format_table(lines, left=1)


def _require_images(configs: Mapping[EvaluationSet, CfgNode]) -> None:
    """Open the images of all sets as their evaluations will, so that none of them fails after hours of the others.

    Raises:
        ValueError, OSError: as `Task.load` and `Task.dataset`; the message names the set.
    """
    paddle.set_device("cpu")  # the runs choose their own
    task: Task | None = None
    for one, given in configs.items():
        config = with_classes_of_data(given)
        if task is None or task.config.MODEL != config.MODEL:
            task = TASKS[config.TASK](config)
            task.load(config.MODEL.PRETRAINED)
        task.config = config
        try:
            dataset = task.dataset("val")
            assert dataset is not None  # classifiers have validation images
            require_files(dataset.images, 0.0)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"--sets {one.name}: {error}") from error


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of each result that all rows have, and the sum of the images."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {
        name: float((np.sum if name == "images" else np.mean)([row[name] for row in rows])) for name in names
    }


def _sets_of(name: str, path: Path) -> list[EvaluationSet]:
    if path.suffix == ".json":
        if not path.is_file():
            raise FileNotFoundError(f"--sets {name}={path}: there is no such file")
        return [EvaluationSet(name, ("TEST.REAL_LABELS", str(path)))]
    if not is_folder(path):
        raise FileNotFoundError(f"--sets {name}={path}: expected a folder of class folders, or real.json")
    folder = ("DATA.DATASET", "test_folder", "DATA.DATA_PATH")
    corruptions = {place.name: place for place in _corruptions(path)}
    if not corruptions:
        return [EvaluationSet(name, (*folder, str(path)))]
    # The images are cropped already; a resize would show less of them.
    uncropped = ("DATA.CROP_PCT", 1.0, "DATA.RESIZE", None)
    return [
        EvaluationSet(
            f"{name}/{corruption}/{severity}", (*folder, str(place / severity), *uncropped), corruption, name
        )
        for corruption, place in corruptions.items()
        for severity in sub_folders(place)
    ]


def _corruptions(path: Path) -> list[Path]:
    """The folders `<corruption>` that hold `<severity>`, in `path` or in the folders of its parts (noise, blur, …)."""
    places = [path / name for name in sub_folders(path)]
    found = []
    for place in places:
        inside = sub_folders(place)
        if inside and set(inside) <= _SEVERITIES:
            found.append(place)
        else:
            deeper = [place / name for name in inside]
            found += [one for one in deeper if sub_folders(one) and set(sub_folders(one)) <= _SEVERITIES]
    return found
