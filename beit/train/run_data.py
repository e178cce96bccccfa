"""The data of a run: opened, checked before the first step, and described in the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from beit.config import batch_size_eval
from beit.data import bad_images
from beit.data.dataset import ImageDataset
from beit.data.folders import shortened_list
from beit.data.image_list import absent_classes, require_files
from beit.data.loader import Loader, build_loader
from beit.data.mask_counts import require_classes
from beit.data.sampler import EvalSampler
from beit.data.segmentation import SegmentationDataset
from beit.logging import RunLog
from beit.parallel import ranks
from beit.tasks import Task


def training_data(task: Task, log: RunLog) -> ImageDataset:
    """The training data, once their files and, for segmentation, the classes in their masks are checked.

    Raises:
        FileNotFoundError: more images are missing than DATA.MAX_BAD_FRACTION tolerates.
        ValueError, OSError: as `Task.dataset` and `require_classes`.
    """
    data, dataset = task.config.DATA, task.dataset("train")
    assert dataset is not None  # every task has training data
    if dataset.bad_images is not None:
        bad_images.start(dataset.bad_images)
        ranks.barrier()  # no rank records an image before all have marked the start
    _log_notes(dataset, log)
    absent = absent_classes(dataset.images, task.config.MODEL.NUM_CLASSES)
    if absent:
        log.note(f"classes without training images ({len(absent)}): {shortened_list(absent)}")
    _require_files(dataset, data.MAX_BAD_FRACTION)
    if ranks.rank() == 0 and isinstance(dataset, SegmentationDataset) and not data.ALLOW_ABSENT_CLASSES:
        require_classes(dataset)
    return dataset


def validation_data(task: Task, training: ImageDataset, log: RunLog) -> ImageDataset | None:
    """The validation data of a training run, None if there are none; warns if they overlap with the training data.

    Raises:
        ValueError: TRAIN.EARLY_STOP is set and there are none.
    """
    config, dataset = task.config, task.dataset("val")
    if dataset is None:
        if config.TRAIN.EARLY_STOP is not None:
            raise ValueError(
                f"TRAIN.EARLY_STOP {config.TRAIN.EARLY_STOP} needs evaluations, and there are no validation images in "
                f"DATA.DATA_PATH={config.DATA.DATA_PATH}: add some, or leave the key out"
            )
        log.text("evaluation data: none")
        return None
    shared = training.images.overlap(dataset.images)
    if shared:
        log.text(
            f"warning: {shared} of {len(dataset)} validation images are also training images; the metrics will be "
            "too good"
        )
    return dataset


@contextmanager
def validation_loader(task: Task, dataset: ImageDataset, log: RunLog) -> Iterator[tuple[Loader, EvalSampler]]:
    """The loader of the validation data and this rank's part of them; the data workers start with the first evaluation.

    Raises:
        FileNotFoundError: one of the images is missing.
    """
    config = task.config
    log.text(f"evaluation data: {len(dataset)} images")
    _log_notes(dataset, log)
    _require_files(dataset, 0.0)
    sampler = EvalSampler(
        len(dataset),
        batch_size=batch_size_eval(config),
        world_size=ranks.world_size(),
        rank=ranks.rank(),
    )
    with build_loader(config, dataset) as loader:
        yield loader, sampler


def _require_files(dataset: ImageDataset, tolerated: float) -> None:
    if ranks.rank() == 0:
        require_files(dataset.images, tolerated)


def _log_notes(dataset: ImageDataset, log: RunLog) -> None:
    for note in dataset.images.notes:
        log.note(note)
