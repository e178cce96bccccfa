"""Pixels of each class in the label maps of a data set: absent classes, ignored pixels, masks drawn in 0 and 255.

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from beit.data.folders import shortened_list
from beit.data.image_mask import IGNORE, MaskReader
from beit.data.segmentation import SegmentationDataset

_THREADS = 4  # Pillow releases the GIL while it decodes
_CHUNK = 64  # masks read between two checks of the counts


def pixel_counts(reader: MaskReader, path: str | Path, size: tuple[int, int] | None) -> np.ndarray:
    """Pixels of each class in a label map, and of `IGNORE` in the last entry: int64 `[IGNORE + 1]`.

    Args:
        reader: of the data set.
        path: of the label map.
        size: (width, height) of its image, pixels; None if it is unknown.

    Raises:
        ImageError, MaskError: see `MaskReader`.
    """
    labels = reader(Path(path), size)
    return np.bincount(labels.ravel(), minlength=IGNORE + 1)


def describe_counts(
    counts: np.ndarray, reader: MaskReader, class_names: Sequence[str] | None
) -> tuple[list[str], str]:
    """Sentences on absent classes in the total counts of a data set, and a sentence on the share of ignored pixels.

    Args:
        counts: see `pixel_counts`.
        reader: of the data set.
        class_names: of the K classes; None where they are unknown.
    """
    classes, total = counts[: reader.num_classes], int(counts.sum())
    share = counts[IGNORE] / max(total, 1)
    fact = f"{100 * share:.2f} % of the pixels of the masks are ignored"
    absent = np.flatnonzero(classes == 0).tolist()
    if not absent:
        return [], fact
    if not classes.any():
        problem = "every pixel of the masks is ignored"
    else:
        names = [f"{k} ({class_names[k]})" if class_names else str(k) for k in absent]
        problem = (
            f"{len(absent)} of {len(classes)} classes have no pixel in the masks: {shortened_list(names)}"
        )
    return [f"{problem}; {_cause(classes, int(counts[IGNORE]), reader)}"], fact


def require_classes(dataset: SegmentationDataset) -> None:
    """Read masks in random order until every class has occurred.

    Raises:
        ValueError: a class has no pixel in any mask, or all pixels are ignored.
        ImageError, MaskError: see `MaskReader`.
    """
    reader, masks = dataset.read_mask, dataset.masks
    order = np.random.default_rng(0).permutation(len(masks)).tolist()
    counts = np.zeros(IGNORE + 1, np.int64)
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(order), _CHUNK):
            paths = [masks.path(index) for index in order[start : start + _CHUNK]]
            counts += sum(pool.map(lambda path: pixel_counts(reader, path, None), paths))
            if counts[: reader.num_classes].all():
                return
    problems, _ = describe_counts(counts, reader, dataset.images.class_names)
    raise ValueError(
        f"{problems[0]}. `python -m beit check` reads all masks; to train anyway say `-opts DATA.ALLOW_ABSENT_CLASSES "
        "True`"
    )


def _cause(classes: np.ndarray, ignored: int, reader: MaskReader) -> str:
    if reader.reduce_zero_label:
        return (
            "with DATA.REDUCE_ZERO_LABEL True value 0 is ignored and value v is class v - 1: set it to False if 0 is a "
            "class"
        )
    if reader.ignore_label == IGNORE and ignored and classes[0] and not classes[1:].any():
        return (
            "the masks hold 0 and 255 only, and 255 is ignored (DATA.IGNORE_LABEL): if 255 is the object, write it as 1, "
            "e.g. `Image.open(file).convert('L').point(lambda value: value // 255).save(file)`"
        )
    return f"values 0 to {reader.num_classes - 1} are classes and {reader.ignore_label} is ignored"
