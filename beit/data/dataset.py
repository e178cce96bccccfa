"""Data sets: from an image of a list to the named arrays that are collated into batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from yacs.config import CfgNode

from beit.data.bad_images import Recorded, record
from beit.data.class_matching import KnownClasses
from beit.data.image_list import ImageList
from beit.data.images import ImageError, OpenOptions
from beit.data.model_input import build_eval_transform
from beit.data.sampler import Sample
from beit.data.splits import open_split
from beit.data.transforms import Arrays, Transform, build_train_transform
from beit.preprocessing import exif_orientation_of

_MAX_REPLACEMENTS = 10  # consecutive unreadable images after which the data set is considered broken


@dataclass(eq=False, repr=False)
class ImageDataset(ABC):
    """Named arrays for each `Sample`: those of `read`, which subclasses define, and `index` int64.

    The random numbers of a sample depend on (`seed`, `sample.seed`) only, so they are the same in every worker, on
    every rank and after a resume.

    Args:
        images: the files to read.
        seed: of the run.
        open_options: arguments of `open_image`.
        bad_images: file in which training records unreadable images (`beit.data.bad_images`); the next readable image of
            the list takes the place of the unreadable one. With None, as in evaluation, an unreadable image is an error,
            because a metric must cover exactly the listed images.

    Raises:
        ImageError: an image cannot be read, or with `bad_images` ten in a row.
    """

    images: ImageList
    seed: int = field(default=0, kw_only=True)
    open_options: OpenOptions = field(default_factory=OpenOptions, kw_only=True)
    bad_images: Path | None = field(default=None, kw_only=True)

    @cached_property
    def _recorded(self) -> Recorded:
        assert self.bad_images is not None
        return Recorded(self.bad_images)

    @abstractmethod
    def read(self, index: int, seed: int) -> Arrays:
        """The named arrays of one image.

        Args:
            index: in the list.
            seed: of this sample's random numbers.

        Raises:
            ImageError: the image cannot be read.
        """

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, sample: Sample) -> Arrays:
        if self.bad_images is None:
            try:
                return self._numbered(sample.index, sample.seed)
            except ImageError as error:
                raise ImageError(
                    error.path,
                    f"{error.reason} (image {sample.index} of the list, from 0). Put a readable file in its place; "
                    "-resume auto continues a training",
                ) from error
        for offset in range(_MAX_REPLACEMENTS):
            try:
                return self._numbered((sample.index + offset) % len(self), sample.seed)
            except ImageError as error:
                record(self.bad_images, error)
                last = error
        raise ImageError(last.path, f"{last.reason}; and so are the {_MAX_REPLACEMENTS - 1} images before it")

    def unreadable(self) -> set[str]:
        """Paths of the images that any worker of any rank on this machine could not read since the run started."""
        return set() if self.bad_images is None else self._recorded()

    def describe(self, sample: Sample) -> str:
        """The path of the image, for messages."""
        return str(self.images.path(sample.index))

    def generator(self, *seeds: int) -> np.random.Generator:
        """The random numbers of a sample. Further numbers after the sample's seed select an independent stream."""
        return np.random.default_rng([self.seed, *seeds])

    def transformed(self, index: int, transform: Transform, rng: np.random.Generator) -> Arrays:
        """The arrays that the transform makes of one image."""
        with self.images.open(index, **self.open_options) as file:
            return transform.load(file, rng)

    def original(self, index: int) -> np.ndarray:
        """The pixels of one image before the transform, uint8 `[H, W, 3]`.

        Raises:
            ImageError: it cannot be read.
        """
        with self.images.open(index, **self.open_options) as file:
            return np.asarray(file.decode())

    def _numbered(self, index: int, seed: int) -> Arrays:
        return {**self.read(index, seed), "index": np.asarray(index, np.int64)}


@dataclass(eq=False, repr=False)
class ClassificationDataset(ImageDataset):
    """The arrays of the transform, and `label` int64 where the list has labels.

    Args:
        transform: from an RGB image to named arrays.
    """

    transform: Transform

    def read(self, index: int, seed: int) -> Arrays:
        arrays = self.transformed(index, self.transform, self.generator(seed))
        if self.images.labels is not None:
            arrays["label"] = np.asarray(self.images.labels[index])
        return arrays


def build_dataset(
    config: CfgNode,
    split: Literal["train", "val"],
    *,
    bad_images: Path | None = None,
    classes: KnownClasses | None = None,
    crops: int = 1,
) -> ClassificationDataset:
    """The labeled images of a split: random crops for "train", the center crop or five crops for "val".

    Args:
        config: of the run.
        split: "train" or "val".
        bad_images: see `ImageDataset`.
        classes: of the model's head, for which the images are labeled; None if it has none yet.
        crops: of an image of "val", as in `EvalTransform`.

    Raises:
        FileNotFoundError: see `open_split`.
        ValueError: see `open_split`, `parse_policy` and `KnownClasses.order`.
    """
    transform: Transform = (
        build_train_transform(config) if split == "train" else build_eval_transform(config, crops)
    )
    images = open_split(config, split)
    return ClassificationDataset(
        images if classes is None else classes.relabel(images),
        transform,
        seed=config.SEED,
        open_options=open_options(config),
        bad_images=bad_images,
    )


def bad_images_file(config: CfgNode, split: Literal["train", "val"]) -> Path | None:
    """The file of a run that lists unreadable training images; None for "val", where one is an error."""
    return Path(config.SAVE) / "bad_images.txt" if split == "train" else None


def open_options(config: CfgNode) -> OpenOptions:
    """The arguments of `open_image` that the config sets."""
    return {"exif_orientation": bool(exif_orientation_of(config)), "max_pixels": config.DATA.MAX_PIXELS}
