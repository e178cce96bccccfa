"""The images of pre-training: two views, a mask, and token ids where they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from yacs.config import CfgNode

from beit.data.dataset import ImageDataset, Transform, open_options
from beit.data.image_list import ImageList
from beit.data.masking import MaskGenerator, build_mask_generator
from beit.data.splits import open_unlabeled
from beit.data.two_view import build_eval_views, build_train_views

# L patches of an image

_MASK_STREAM = 1  # of an item's random numbers: its mask does not depend on what its views drew


class PretrainDataset(ImageDataset):
    """Items by `Sample`: the views of the transform, `mask` bool `[L]`, `index`, and `tokens` int64 `[L]` if stored.

    Args:
        images: what to read.
        transform: two views of a picture.
        masks: draws a mask.
        fixed_views: the views depend on the image alone, not on the seed of the sample: what stored tokens need. Masks are new
            each time all the same.
        tokens: file of ids, `.npy` `[images, L]`.
        options: of `ImageDataset`.
    """

    def __init__(
        self,
        images: ImageList,
        transform: Transform,
        masks: MaskGenerator,
        *,
        fixed_views: bool = False,
        tokens: Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__(images, transform, **options)
        self.masks = masks
        self.fixed_views = fixed_views
        self.tokens = tokens

    def _read(self, index: int, seed: int) -> dict[str, np.ndarray]:
        sample = super()._read(index, index if self.fixed_views else seed)
        sample["mask"] = self.masks(np.random.default_rng([self.seed, seed, _MASK_STREAM]))
        if self.tokens is not None:
            # Opened per item: an open map cannot travel to a worker process, and opening takes microseconds.
            sample["tokens"] = np.load(self.tokens, mmap_mode="r")[index].astype(np.int64)
        return sample


def build_pretrain_dataset(
    config: CfgNode,
    split: Literal["train", "val"],
    second_size: tuple[int, int],
    *,
    bad_images: Path | None = None,
    fixed_views: bool = False,
    tokens: Path | None = None,
) -> PretrainDataset | None:
    """The images of a split with random views for "train" and the center for "val"; None without validation part.

    `second_size` is the (height, width) of the tokenizer's view; stored `tokens` need none.

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
