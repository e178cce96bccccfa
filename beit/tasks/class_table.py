"""Scores of each class, and their table `classes.csv`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from beit.tables import write_table

# K classes


def class_scores(images: np.ndarray, predicted: np.ndarray, correct: np.ndarray) -> dict[str, np.ndarray]:
    """`images` int64, and `precision`, `recall` and `f1` in percent, each `[K]`; NaN where a score is not defined.

    Args:
        images: of each class, `[K]`.
        predicted: images for which the class was predicted, `[K]`.
        correct: images of the class for which it was predicted, `[K]`.
    """
    with np.errstate(invalid="ignore"):
        return {
            "images": np.asarray(images, np.int64),
            "precision": 100 * np.asarray(correct) / np.asarray(predicted),
            "recall": 100 * np.asarray(correct) / np.asarray(images),
            # 2 TP / (2 TP + FP + FN): the same as the harmonic mean, and defined where one of the two is not
            "f1": 200 * np.asarray(correct) / (np.asarray(predicted) + np.asarray(images)),
        }


def write_class_table(
    path: Path, names: Sequence[str], columns: Mapping[str, Sequence[object] | np.ndarray]
) -> Path:
    """Write a CSV file with a row for each class: label, name and the columns; returns its path.

    Args:
        path: file to write, in a new folder if need be.
        names: of the K classes.
        columns: by title, `[K]`; fractions have two decimals, NaN is an empty cell.
    """
    cells = zip(names, *columns.values(), strict=True)
    rows = ((label, name, *map(_cell, values)) for label, (name, *values) in enumerate(cells))
    return write_table(path, ("label", "class", *columns), rows)


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if np.isnan(value) else f"{value:.2f}"
