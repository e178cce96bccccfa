"""Check of a data set that opens every image: unreadable files, sizes, classes, and images in both splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from beit.data.dataset import ImageDataset
from beit.data.image_list import ImageList
from beit.data.image_mask import IGNORE, MaskError, MaskReader
from beit.data.images import ImageError, OpenOptions
from beit.data.mask_counts import describe_counts, pixel_counts
from beit.data.segmentation import SegmentationDataset
from beit.logging import progress

_CHUNK = 64  # images sent to a worker at a time
_LISTED = 20  # problems that are printed

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ImageCheck:
    """The result for one file: size (width, height) in pixels, EXIF orientation and digest, or why it cannot be read."""

    path: str
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    reason: str = ""
    orientation: int = 1


@dataclass(frozen=True)
class MaskCheck:
    """The result for one label map: its `pixel_counts`, or the reason why it is wrong."""

    path: str
    counts: np.ndarray | None = None
    reason: str = ""


@dataclass
class SplitReport:
    """The result for one split: `checks` of its images in order, `counts` of images per class int64 `[K]`.

    `problems` should be solved before training; `remarks` are for information.
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
    """Open every image of a split and every label map, in several processes.

    Problems are images and label maps that cannot be read or are wrong, and classes without images or pixels in the
    training split. Remarks are images smaller than the model's input or with an EXIF orientation, and classes with less
    than a tenth of the images of the largest class.

    Args:
        name: of the split: "train" or "val".
        dataset: its data.
        num_classes: of the model, K; None where there are no labels.
        smallest: shorter side of the model's input, pixels.
        workers: processes; 0 checks in this process.
    """
    images = dataset.images
    check = partial(_check, images=images, options=dataset.open_options)
    results = _map(check, range(len(images)), workers)
    checks = list(progress(results, len(images), f"open {name}", rank=0))
    report = SplitReport(name, checks, class_names=images.class_names)
    report.remarks += images.notes
    report.problems += [f"{image.path}: {image.reason}" for image in checks if image.reason]
    if images.labels is not None and num_classes:
        is_multi = images.labels.ndim == 2
        report.counts = (
            images.labels.sum(0) if is_multi else np.bincount(images.labels, minlength=num_classes)
        )
        _check_classes(report)
        if is_multi:
            counts = images.labels.sum(1)
            report.remarks.append(
                f"{counts.mean():.2f} labels an image on average, {counts.max()} at most, {(counts == 0).sum()} images have none"
            )
    if isinstance(dataset, SegmentationDataset):
        _check_masks(report, dataset, workers)
    _remark_on_orientation(report, dataset)
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


def _check_masks(report: SplitReport, dataset: SegmentationDataset, workers: int) -> None:
    sizes = [None if image.reason else image.size for image in report.checks]
    pairs = [(str(dataset.masks.path(index)), size) for index, size in enumerate(sizes)]
    check = partial(_check_mask, reader=dataset.read_mask)
    masks = list(progress(_map(check, pairs, workers), len(pairs), f"open masks of {report.name}", rank=0))
    report.problems += [f"{mask.path}: {mask.reason}" for mask in masks if mask.reason]
    counts = sum((mask.counts for mask in masks if mask.counts is not None), np.zeros(IGNORE + 1, np.int64))
    problems, fact = describe_counts(counts, dataset.read_mask, report.class_names)
    report.remarks.append(fact)
    (report.problems if report.name == "train" else report.remarks).extend(
        f"{report.name}: {problem}" for problem in problems
    )


def _remark_on_orientation(report: SplitReport, dataset: ImageDataset) -> None:
    turned = [image for image in report.checks if image.orientation != 1]
    if turned:
        is_used = dataset.open_options.get("exif_orientation", False)
        report.remarks.append(
            f"{len(turned)} of {len(report.checks)} images have an EXIF orientation, by which they are "
            f"{'turned' if is_used else 'not turned'} (DATA.EXIF_ORIENTATION {is_used}), e.g. {turned[0].path}"
            + ("; masks must be drawn alike" if isinstance(dataset, SegmentationDataset) else "")
        )


def _map(check: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    if not workers:
        yield from map(check, items)
        return
    # Spawned, because a fork of a process with Paddle's threads may hang.
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(check,)
    ) as pool:
        yield from pool.map(_run_check, items, chunksize=_CHUNK)


def _start_worker(check: Callable[[Any], Any]) -> None:
    """Keep the check in this worker: it holds the names of all images and is sent once only."""
    global _worker_check
    _worker_check = check


_worker_check: Callable[[Any], Any]


def _run_check(item: Any) -> Any:
    return _worker_check(item)


def _check_mask(pair: tuple[str, tuple[int, int] | None], reader: MaskReader) -> MaskCheck:
    path, size = pair
    try:
        return MaskCheck(path, pixel_counts(reader, path, size))
    except (ImageError, MaskError) as error:
        return MaskCheck(path, reason=error.reason)


def _check(index: int, images: ImageList, options: OpenOptions) -> ImageCheck:
    path = str(images.path(index))
    try:
        with images.open(index, **options) as file:
            orientation, image = file.orientation, file.decode()
        digest = hashlib.blake2b(images.read(index), digest_size=16).digest()
    except ImageError as error:
        return ImageCheck(path, reason=error.reason)
    return ImageCheck(path, image.size, digest, orientation=orientation)
