"""Check of a data set that opens every image: unreadable files, sizes, classes, and images in both splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from beit.data.dataset import ImageDataset
from beit.data.images import ImageError, OpenOptions, open_image
from beit.logging import progress

_CHUNK = 64  # images sent to a worker at a time
_LISTED = 20  # problems that are printed


@dataclass(frozen=True)
class ImageCheck:
    """The result for one file: size (width, height) in pixels and digest, or the reason why it cannot be read."""

    path: str
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    reason: str = ""


@dataclass
class SplitReport:
    """The result for one split: `checks` of its images in order, `counts` of images per class int64 `[K]`.

    `problems` should be solved before training, `remarks` need not.
    """

    name: str
    checks: list[ImageCheck]
    counts: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check_split(
    name: str, dataset: ImageDataset, num_classes: int | None, smallest: int, *, workers: int
) -> SplitReport:
    """Open every image of a split, in several processes.

    Problems are images that cannot be read, and classes without images in the training split. Remarks are images
    smaller than the model's input, and classes with less than a tenth of the images of the largest class.

    Args:
        name: of the split: "train" or "val".
        dataset: its data.
        num_classes: of the model, K; None where there are no labels.
        smallest: shorter side of the model's input, pixels.
        workers: processes; 0 checks in this process.
    """
    images = dataset.images
    paths = [str(images.path(index)) for index in range(len(images))]
    checks = list(
        progress(_check_all(paths, dataset.open_options, workers), len(paths), f"open {name}", rank=0)
    )
    report = SplitReport(name, checks, class_names=images.class_names)
    report.remarks += images.notes
    report.problems += [f"{image.path}: {image.reason}" for image in checks if image.reason]
    if images.labels is not None and num_classes:
        report.counts = np.bincount(images.labels, minlength=num_classes)
        _check_classes(report)
    small = [image for image in checks if not image.reason and min(image.size) < smallest]
    if small:
        report.remarks.append(
            f"{len(small)} of {len(checks)} images are smaller than the model's {smallest} pixels and are enlarged, "
            f"e.g. {small[0].path} ({small[0].size[0]}x{small[0].size[1]})"
        )
    return report


def overlap(train: SplitReport, val: SplitReport) -> list[str]:
    """Validation images that are training images too: the same file, or another file with the same bytes."""
    by_path = {str(Path(image.path).resolve()) for image in train.checks}
    by_digest = {image.digest: image.path for image in train.checks if image.digest}
    found = []
    for image in val.checks:
        if str(Path(image.path).resolve()) in by_path:
            found.append(f"{image.path} is in both splits")
        elif image.digest in by_digest:
            found.append(f"{image.path} has the bytes of {by_digest[image.digest]}")
    return found


def describe_split(report: SplitReport) -> list[str]:
    """Lines to print: number of images, their sizes, images per class, remarks."""
    good = np.array([image.size for image in report.checks if not image.reason]).reshape(-1, 2)
    lines = [f"{report.name}: {len(report.checks)} images, {len(report.checks) - len(good)} unreadable"]
    if len(good):
        low, middle, high = good.min(0), np.median(good, axis=0).astype(int), good.max(0)
        sizes = ", ".join(
            f"{word} {size[0]}x{size[1]}"
            for word, size in zip(("smallest", "median", "largest"), (low, middle, high), strict=True)
        )
        lines.append(f"  sizes (width and height independently): {sizes}")
    if report.counts is not None:
        counts = report.counts
        lines.append(
            f"  {len(counts)} classes, {counts.min()} to {counts.max()} images each, median {int(np.median(counts))}"
        )
    return lines + [f"  note: {remark}" for remark in report.remarks]


def shortened(problems: list[str]) -> list[str]:
    """The first problems, and a line with the number of further ones."""
    more = len(problems) - _LISTED
    return problems[:_LISTED] + ([f"… and {more} more"] if more > 0 else [])


def _check_classes(report: SplitReport) -> None:
    assert report.counts is not None
    names = report.class_names or tuple(f"class {label}" for label in range(len(report.counts)))
    empty = [names[label] for label in np.flatnonzero(report.counts == 0)]
    if empty:
        shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
        line = f"{report.name}: {len(empty)} of {len(names)} classes have no image: {shown}"
        (report.problems if report.name == "train" else report.remarks).append(line)
    rare = [
        names[label]
        for label in np.flatnonzero((report.counts > 0) & (10 * report.counts < report.counts.max()))
    ]
    if rare:
        report.remarks.append(
            f"{len(rare)} classes have less than a tenth of the images of the largest, e.g. {rare[0]}"
        )


def _check_all(paths: list[str], options: OpenOptions, workers: int) -> Iterator[ImageCheck]:
    if not workers:
        yield from (_check(path, options) for path in paths)
        return
    # Spawned, because a fork of a process with Paddle's threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(_check, options=options), paths, chunksize=_CHUNK)


def _check(path: str, options: OpenOptions) -> ImageCheck:
    try:
        image = open_image(path, **options)
        digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except ImageError as error:
        return ImageCheck(path, reason=error.reason)
    return ImageCheck(path, image.size, digest)
