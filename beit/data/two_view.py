"""The transforms of pre-training: one crop in two sizes, for the model and for the tokenizer.

Pillow crops and resizes 8-bit images, as in the official pipeline; normalization follows on the device.
Shapes: H, W of the model's view; h, w of the tokenizer's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.transforms import (
    FILTERS,
    Arrays,
    Box,
    ColorJitter,
    Transform,
    channels_first,
    resized_crop_box,
    train_filter,
)


@dataclass(frozen=True)
class Views:
    """The two views of a crop.

    Args:
        size: (H, W) of the model's view, pixels.
        second_size: (h, w) of the tokenizer's view, pixels; None for no second view.
        resample: filter of the model's view.
        second_resample: filter of the tokenizer's view.
    """

    size: tuple[int, int]
    second_size: tuple[int, int] | None
    resample: Image.Resampling = Image.Resampling.BICUBIC
    second_resample: Image.Resampling = Image.Resampling.LANCZOS

    def cut(self, image: Image.Image, box: Box) -> Arrays:
        """`image` uint8 `[3, H, W]` and `second` uint8 `[3, h, w]` of the same crop."""
        crop = image.crop(box)
        views = {"image": channels_first(crop.resize(self.size[::-1], self.resample))}
        if self.second_size is not None:
            views["second"] = channels_first(crop.resize(self.second_size[::-1], self.second_resample))
        return views


@dataclass(frozen=True)
class TwoViewTransform(Transform):
    """Color jitter, flip, then one random crop for both views. Returns what `Views.cut` returns.

    Source: unilm/beit/datasets.py `DataAugmentationForBEiT` and transforms.py
    `RandomResizedCropAndInterpolationWithTwoPic`.

    Args:
        views: sizes and filters.
        scale: range of the crop's share of the area: (0.08, 1) in v1, (0.2, 1) in v2.
        ratio: range of the crop's width / height.
        hflip: probability of mirroring.
        jitter: of brightness, contrast and saturation, not of hue; None for none.
    """

    views: Views
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    jitter: ColorJitter | None = ColorJitter(0.4)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Arrays:
        if self.jitter is not None:
            image = self.jitter(image, rng)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        box = resized_crop_box(image.width, image.height, self.scale, self.ratio, rng)
        return self.views.cut(image, box)


@dataclass(frozen=True)
class CentralTwoView(Transform):
    """Both views of the center, for evaluation. Returns what `Views.cut` returns.

    Args:
        views: sizes and filters.
        crop_pct: sides of the crop / those of the largest box with the aspect ratio of the model's view.
    """

    views: Views
    crop_pct: float = 1.0

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Arrays:
        height, width = self.views.size
        factor = self.crop_pct * min(image.width / width, image.height / height)
        crop_width, crop_height = max(1, round(width * factor)), max(1, round(height * factor))
        left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
        return self.views.cut(image, (left, top, left + crop_width, top + crop_height))


def build_train_views(config: CfgNode, second_size: tuple[int, int] | None) -> TwoViewTransform:
    """The random transform as DATA.* and TRAIN.* set it; `second_size` as in `Views`."""
    train = config.TRAIN
    return TwoViewTransform(
        _views(config, second_size, train_filter(config)),
        scale=tuple(train.SCALE),
        ratio=tuple(train.RATIO),
        hflip=train.HFLIP,
        jitter=ColorJitter(train.COLOR_JITTER) if train.COLOR_JITTER else None,
    )


def build_eval_views(config: CfgNode, second_size: tuple[int, int] | None) -> CentralTwoView:
    """The central transform as DATA.* sets it; `second_size` as in `Views`."""
    views = _views(config, second_size, FILTERS[config.DATA.INTERPOLATION])
    return CentralTwoView(views, config.DATA.CROP_PCT)


def _views(config: CfgNode, second_size: tuple[int, int] | None, resample: Image.Resampling) -> Views:
    return Views(image_hw(config), second_size, resample, FILTERS[config.DATA.SECOND_INTERPOLATION])
