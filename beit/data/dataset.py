"""An image with its label, opened, transformed and ready to be batched."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from beit.data.image_list import ImageList
from beit.data.images import ImageError, OpenOptions, open_image
from beit.data.sampler import Sample
from beit.data.splits import open_split
from beit.data.transforms import build_eval_transform, build_train_transform

Transform = Callable[[Image.Image, np.random.Generator], dict[str, np.ndarray]]

_MAX_REPLACEMENTS = 10  # more unreadable neighbors than that are no accident


class ImageDataset:
    """Items by `Sample`: what the transform returns, `label` int64 where there are labels, and `index` int64.

    The randomness of an item comes from (dataset.seed, sample.seed) alone: it is the same in every worker, on every rank and
    after a resume.

    Args:
        images: what to read.
        transform: from an RGB picture and a generator to named arrays. One that has a method `divisor` says how many
            times smaller a picture may be decoded for it, see `TrainTransform.divisor`.
        seed: of the augmentation.
        open_options: how pictures are opened.
        bad_images: file for training to note unreadable images in, one line `path<TAB>reason` each time one
            is met; the next readable image in the list takes its place. None, as in evaluation, raises
            instead: a metric must not be of other images than the list says.

    Raises:
        ImageError: an image cannot be read, or with `bad_images` ten in a row.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        *,
        seed: int = 0,
        open_options: OpenOptions | None = None,
        bad_images: Path | None = None,
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.open_options: OpenOptions = open_options or {}
        self.bad_images = bad_images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        if self.bad_images is None:
            try:
                return self._read(sample.index, sample.seed)
            except ImageError as error:
                raise ImageError(
                    error.path, f"{error.reason} (image {sample.index} of the list, from 0)"
                ) from error
        for offset in range(_MAX_REPLACEMENTS):
            try:
                return self._read((sample.index + offset) % len(self), sample.seed)
            except ImageError as error:
                _append_line(self.bad_images, f"{error.path}\t{error.reason}")
                last = error
        raise ImageError(last.path, f"{last.reason}; and so are the {_MAX_REPLACEMENTS - 1} images before it")

    def unreadable(self) -> set[str]:
        """Paths of the training images that could not be read so far, by any worker of any rank on this machine."""
        if self.bad_images is None or not self.bad_images.exists():
            return set()
        lines = self.bad_images.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        return {line.split("\t", 1)[0] for line in lines}

    def describe(self, sample: Sample) -> str:
        """The path of the image, for messages."""
        return str(self.images.path(sample.index))

    def _read(self, index: int, seed: int) -> dict[str, np.ndarray]:
        divisor = getattr(self.transform, "divisor", None)
        image = open_image(
            self.images.path(index),
            **self.open_options,
            divisor=divisor and (lambda full_size: divisor(full_size, self._generator(seed))),
        )
        sample = self.transform(image, self._generator(seed))
        if self.images.labels is not None:
            sample["label"] = np.asarray(self.images.labels[index])
        sample["index"] = np.asarray(index, np.int64)
        return sample

    def _generator(self, seed: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, seed])


def build_dataset(
    config: CfgNode, split: Literal["train", "val"], *, bad_images: Path | None = None
) -> ImageDataset:
    """The images of a split with its transform: random for "train", the center crop for "val".

    Raises:
        FileNotFoundError: see `open_split`.
        ValueError: see `open_split` and `parse_policy`.
    """
    transform: Transform = build_train_transform(config) if split == "train" else build_eval_transform(config)
    return ImageDataset(
        open_split(config, split),
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
    return {"exif_orientation": config.DATA.EXIF_ORIENTATION, "max_pixels": config.DATA.MAX_PIXELS}


def _append_line(file: Path, line: str) -> None:
    """Append in one write: lines of several processes do not mix."""
    line = " ".join(line.splitlines())
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(handle, f"{line}\n".encode(errors="surrogateescape"))
    finally:
        os.close(handle)
