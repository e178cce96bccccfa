"""Data sets in several files of many images each: which of the files belong to a split."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from beit.data.class_folders import SPLITS
from beit.data.folders import shortened_list, walk_files

_NUMBERED = re.compile(r"(.*?)-(\d+)-of-(\d+)")  # train-00003-of-00294


def find_shards(root: Path, split: str, ending: str) -> list[Path]:
    """The files of a split, sorted by name; empty where the split has none.

    The name of a file, or of the folders between it and `root`, has one of the names of the split (`SPLITS`) as a word:
    `imagenet1k-validation-03.tar`, `data/train-00000-of-00294.parquet`, `default/train/0000.parquet`.

    Args:
        root: the data folder.
        split: a key of `SPLITS`.
        ending: of the files, `.tar` or `.parquet`.

    Raises:
        ValueError: a name has words of several splits, the files of the split are in several folders, or some of the
            files that their names count are missing.
    """
    names = walk_files(root, frozenset({ending})).names
    found = [name for name in names if split in _splits(root, name)]
    folders = sorted({str(Path(name).parent) for name in found})
    if len(folders) > 1:
        raise ValueError(
            f"{root} has {ending} files of {split} in several folders, {shortened_list(folders)}: several data sets; "
            "choose one with DATA.DATA_PATH"
        )
    _check_complete(root, found, ending)
    return [root / name for name in found]


def check_labels(labels: np.ndarray, num_classes: int | None, name: Callable[[int], str]) -> None:
    """Refuse labels outside of [0, num_classes).

    Args:
        labels: int64 `[images]`.
        num_classes: of the model; None for any number.
        name: of the image with an index, for the message.

    Raises:
        ValueError: there is such a label.
    """
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise ValueError(
            f"{name(int(labels.argmin()))} has label {low}, labels count from 0; -1 marks images without labels"
        )
    if num_classes is not None and high >= num_classes:
        hint = (
            "the labels seem to count from 1: pack the data again with labels from 0"
            if low == 1 and high == num_classes
            else f"say `-opts MODEL.NUM_CLASSES {high + 1}` if that is the number of classes"
        )
        raise ValueError(
            f"{name(int(labels.argmax()))} has label {high} for MODEL.NUM_CLASSES={num_classes} (labels of the split: "
            f"{low} to {high}); {hint}"
        )


def _splits(root: Path, name: str) -> list[str]:
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = [split for split, names in SPLITS.items() if words & set(names)]
    if len(found) > 1:
        raise ValueError(f"{root / name}: the name has the words {' and '.join(found)}; expected one split")
    return found


def _check_complete(root: Path, names: list[str], ending: str) -> None:
    numbered = [match.groups() for name in names if (match := _NUMBERED.fullmatch(name.removesuffix(ending)))]
    totals = sorted({(stem, int(total)) for stem, _, total in numbered})
    if len(totals) > 1:
        raise ValueError(
            f"{root} has files of several data sets: {shortened_list([f'{stem} ({total} files)' for stem, total in totals])}"
        )
    for stem, total in totals:
        there = {int(number) for _, number, _ in numbered}
        missing = [number for number in range(total) if number not in there]
        if missing:
            raise ValueError(
                f"{root}: {len(missing)} of {total} files {stem}-*{ending} are missing, first number {missing[0]}; "
                "download them"
            )
