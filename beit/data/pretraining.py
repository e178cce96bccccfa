"""The data set of pre-training: two views of each image, a mask, and token ids where they are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from yacs.config import CfgNode

from beit.data.dataset import ImageDataset, open_options
from beit.data.masking import MaskGenerator, build_mask_generator
from beit.data.splits import open_unlabeled
from beit.data.transforms import Arrays, Transform
from beit.data.two_view import build_eval_views, build_train_views

# L patches of an image

_MASK_STREAM = (
    1  # a separate random stream, so that the mask does not depend on how many numbers the views have drawn
)


@dataclass(eq=False, repr=False)
class PretrainDataset(ImageDataset):
    """The views of the transform, `mask` bool `[L]`, and `tokens` int64 `[L]` where they are stored.

    Args:
        images: the files to read.
        transform: from an image to one or two views.
        masks: draws the masks.
        fixed_views: make the views depend on the image alone and not on the sample's seed, as stored tokens need.
            The masks differ between epochs all the same.
        tokens: file of token ids, `.npy` `[images, L]`.
    """

    transform: Transform
    masks: MaskGenerator
    fixed_views: bool = field(default=False, kw_only=True)
    tokens: Path | None = field(default=None, kw_only=True)

    def read(self, index: int, seed: int) -> Arrays:
        rng = self.generator(index if self.fixed_views else seed)
        arrays = self.transformed(index, self.transform, rng)
        arrays["mask"] = self.masks(self.generator(seed, _MASK_STREAM))
        if self.tokens is not None:
            # Opened for each item: an open memory map cannot be pickled for a worker, and opening takes microseconds.
            arrays["tokens"] = np.load(self.tokens, mmap_mode="r")[index].astype(np.int64)
        return arrays


def build_pretrain_dataset(
    config: CfgNode,
    split: Literal["train", "val"],
    second_size: tuple[int, int],
    *,
    bad_images: Path | None = None,
    fixed_views: bool = False,
    tokens: Path | None = None,
) -> PretrainDataset | None:
    """The images of a split: random views for "train", the center for "val"; None without validation images.

    Args:
        config: the keys DATA.*, TRAIN.* and MASK.*.
        split: "train" or "val".
        second_size: (height, width) of the tokenizer's view in pixels; ignored where `tokens` are stored.
        bad_images: see `ImageDataset`.
        fixed_views: see `PretrainDataset`.
        tokens: see `PretrainDataset`.

    Raises:
        FileNotFoundError, ValueError: see `open_unlabeled` and `build_mask_generator`.
    """
    masks, images = build_mask_generator(config), open_unlabeled(config, split)
    if images is None:
        return None
    build = build_train_views if split == "train" else build_eval_views
    transform: Transform = build(config, second_size if tokens is None else None)
    return PretrainDataset(
        images,
        transform,
        masks,
        fixed_views=fixed_views,
        tokens=tokens,
        seed=config.SEED,
        open_options=open_options(config),
        bad_images=bad_images,
    )
