"""The data set of VQ-KD: images, and the stored features of a teacher as targets.

A folder of features has for each split `<split>.npy`, an array `[images, N, T]` of any floating type, and
`<split>.txt` with the image name of each row, in the order of the data set's list.
`beit.predict.tokens.store_features` writes it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.dataset import ImageDataset, open_options
from beit.data.image_list import ImageList
from beit.data.list_file import MAX_LIST_BYTES
from beit.data.splits import open_unlabeled
from beit.data.transforms import FILTERS, Arrays, EvalTransform, Transform, build_train_transform
from beit.files import map_array
from beit.text_files import read_bytes

# N patches of an image, T channels of a feature


@dataclass(frozen=True)
class StoredFeatures:
    """The stored features of one split: `array` is the `.npy` file, `shape` its `[images, N, T]`."""

    array: Path
    shape: tuple[int, ...]

    def __getitem__(self, index: int) -> np.ndarray:
        """float32 `[N, T]` of one image."""
        # Opened for each item: an open memory map cannot be pickled for a worker, and opening takes microseconds.
        return np.load(self.array, mmap_mode="r")[index].astype(np.float32)


def open_features(folder: str | Path, split: str, images: ImageList) -> StoredFeatures:
    """The stored features of a split, after a check that they belong to its images.

    Raises:
        FileNotFoundError: one of the two files does not exist.
        ValueError: the rows belong to other images, or the array is damaged or not floating `[images, N, T]`.
    """
    array, names = Path(folder) / f"{split}.npy", Path(folder) / f"{split}.txt"
    for path in (array, names):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; a folder of features holds {split}.npy [images, N, T] and {split}.txt, one "
                "image name a line"
            )
    stored = map_array(array)
    shape = stored.shape
    listed = read_bytes(names, MAX_LIST_BYTES).removesuffix(b"\n").split(b"\n")
    if len(shape) != 3 or shape[0] != len(listed) or stored.dtype.kind != "f":
        raise ValueError(
            f"{array} is {stored.dtype} {list(shape)}, expected floating [{len(listed)}, N, T] for the {len(listed)} names in {names}"
        )
    if len(listed) != len(images):
        raise ValueError(f"{names} names {len(listed)} images, the data has {len(images)}")
    for row, name in enumerate(listed):
        if name != row_name(images, row):
            raise ValueError(
                f"{names} line {row + 1} is {os.fsdecode(name)}, image {row + 1} of the data is {images.name(row)}; "
                "store the features of this data again"
            )
    return StoredFeatures(array, shape)


def row_name(images: ImageList, index: int) -> bytes:
    """The line of `<split>.txt` for an image, without its end."""
    return os.fsencode(images.name(index)).replace(b"\n", rb"\n")


@dataclass(eq=False, repr=False)
class TokenizerDataset(ImageDataset):
    """The arrays of the transform, and `target` float32 `[N, T]` where features are stored.

    Args:
        images: the files to read.
        transform: from an image to named arrays.
        features: of the images, or None.
    """

    transform: Transform
    features: StoredFeatures | None = field(default=None, kw_only=True)

    def read(self, index: int, seed: int) -> Arrays:
        arrays = self.transformed(index, self.transform, self.generator(seed))
        if self.features is not None:
            arrays["target"] = self.features[index]
        return arrays


def build_tokenizer_dataset(
    config: CfgNode,
    split: Literal["train", "val"],
    *,
    bad_images: Path | None = None,
    features: str | Path | None = None,
    central_size: tuple[int, int] | None = None,
) -> TokenizerDataset | None:
    """The images of a split: random crops for "train", the center for "val"; None without validation images.

    Args:
        config: the keys DATA.* and TRAIN.*.
        split: "train" or "val".
        bad_images: see `ImageDataset`.
        features: folder of stored features. With it both splits use the center crop, for which they were computed.
        central_size: (height, width) in pixels of a center crop for both splits; None for random training crops of
            DATA.IMAGE_SIZE.

    Raises:
        FileNotFoundError, ValueError: see `open_unlabeled` and `open_features`.
    """
    images = open_unlabeled(config, split)
    if images is None:
        return None
    is_random = split == "train" and features is None and central_size is None
    central = EvalTransform(
        central_size or image_hw(config), config.DATA.CROP_PCT, FILTERS[config.DATA.INTERPOLATION]
    )
    return TokenizerDataset(
        images,
        build_train_transform(config, jitter_first=True) if is_random else central,
        seed=config.SEED,
        open_options=open_options(config),
        bad_images=bad_images,
        features=None if features is None else open_features(features, split, images),
    )
