"""Mixup and CutMix of batches on the device, with timm's rules, written here because timm needs torch.

Source: Zhang et al. 2018 (mixup), Yun et al. 2019 (CutMix); timm `mixup.py`.
Shapes: B batch, C classes, H, W input size; M = 1 draw for the whole batch, or M = B draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional
from yacs.config import CfgNode

from beit.data.batch_transforms import box_mask


def soft_targets(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Smoothed one-hot targets, float32 `[B, C]`: smoothing / C everywhere, plus 1 - smoothing at each label.

    Args:
        labels: int64 `[B]`; or bool `[B, C]`, where images have any number of labels.
        num_classes: C.
        smoothing: share of the probability that is spread evenly over the classes, within [0, 1].
    """
    one_hot = functional.one_hot(labels, num_classes) if labels.ndim == 1 else labels.astype("float32")
    return one_hot * (1.0 - smoothing) + smoothing / num_classes


@dataclass(frozen=True)
class _Mix:
    """How an image is mixed with its partner.

    `share` is the weight of the image's own label. In mixup it is also the weight of its own pixels, and `box` is
    empty; in CutMix the pixels of `box` (top, left, height, width) are the partner's.
    """

    share: float = 1.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    is_cutmix: bool = False


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Mix each image with the image at its position in the reversed batch, its partner.

    The middle image of an odd batch is its own partner and does not change.

    Args:
        num_classes: C.
        mixup_alpha: lambda of mixup is drawn from Beta(alpha, alpha); 0 switches mixup off.
        cutmix_alpha: the same for CutMix, where lambda is the share of the area that is kept; 0 switches CutMix off.
        cutmix_minmax: range of the box's sides as shares of the image's sides; replaces the Beta distribution.
        probability: of mixing at all.
        switch_probability: of CutMix where both are on.
        mode: "batch" draws once for all images, "pair" once for each pair of partners, "elem" once for each image.
        smoothing: label smoothing, see `soft_targets`.

    Raises:
        ValueError: both alphas are 0 and there is no `cutmix_minmax`.
    """

    num_classes: int
    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    cutmix_minmax: Sequence[float] | None = None
    probability: float = 1.0
    switch_probability: float = 0.5
    mode: Literal["batch", "pair", "elem"] = "batch"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if self.mixup_alpha <= 0 and not self._has_cutmix:
            raise ValueError("mixup_alpha, cutmix_alpha and cutmix_minmax are all off: nothing to mix")

    def __call__(self, images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mixed images `[B, 3, H, W]` and targets float32 `[B, C]`.

        Args:
            images: float `[B, 3, H, W]`.
            labels: as in `soft_targets`.
            rng: draws lambdas and boxes.
        """
        batch, _, height, width = images.shape
        mixes = self._draw_batch(batch, height, width, rng)
        weight = self._pixel_weights(mixes, height, width).astype(images.dtype)  # [M, 1, H, W]
        mixed = images * weight + images.flip(axis=[0]) * (1.0 - weight)
        share = paddle.assign(np.asarray([[mix.share] for mix in mixes], np.float32))  # [M, 1]
        targets = soft_targets(labels, self.num_classes, self.smoothing)
        return mixed, targets * share + targets.flip(axis=[0]) * (1.0 - share)

    @property
    def _has_cutmix(self) -> bool:
        return self.cutmix_alpha > 0 or bool(self.cutmix_minmax)

    def _draw_batch(self, batch: int, height: int, width: int, rng: np.random.Generator) -> list[_Mix]:
        if self.mode == "batch":
            return [self._draw(height, width, rng)]
        if self.mode == "elem":
            return [self._draw(height, width, rng) for _ in range(batch)]
        pairs = [self._draw(height, width, rng) for _ in range(batch // 2)]
        middle = [_Mix()] * (batch % 2)
        return pairs + middle + pairs[::-1]

    def _draw(self, height: int, width: int, rng: np.random.Generator) -> _Mix:
        if rng.random() >= self.probability:
            return _Mix()
        is_cutmix = self._has_cutmix and (self.mixup_alpha <= 0 or rng.random() < self.switch_probability)
        if not is_cutmix:
            return _Mix(rng.beta(self.mixup_alpha, self.mixup_alpha))
        box = self._draw_box(height, width, rng)
        return _Mix(1.0 - box[2] * box[3] / (height * width), box, is_cutmix=True)  # of the clipped box

    def _draw_box(self, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
        if self.cutmix_minmax:
            rows, columns = _side(height, self.cutmix_minmax, rng), _side(width, self.cutmix_minmax, rng)
            top = int(rng.integers(0, height - rows, endpoint=True))
            left = int(rng.integers(0, width - columns, endpoint=True))
            return top, left, rows, columns
        side = math.sqrt(1.0 - rng.beta(self.cutmix_alpha, self.cutmix_alpha))
        top, bottom = _clipped_span(height, int(height * side), rng)
        left, right = _clipped_span(width, int(width * side), rng)
        return top, left, bottom - top, right - left

    @staticmethod
    def _pixel_weights(mixes: list[_Mix], height: int, width: int) -> Tensor:
        """Weight of each image's own pixels, `[M, 1, H, W]`."""
        outside = [[1.0 if mix.is_cutmix else mix.share] for mix in mixes]
        boxes = paddle.assign(np.asarray([mix.box for mix in mixes], np.int32))
        weight = paddle.assign(np.asarray(outside, np.float32)).reshape([-1, 1, 1, 1])
        return paddle.where(box_mask(boxes, height, width), paddle.zeros([1]), weight)


def build_mixup(config: CfgNode) -> Mixup | None:
    """Mixup and CutMix as TRAIN.* sets them; None where they are off."""
    train = config.TRAIN
    if train.MIXUP_PROB <= 0 or (
        train.MIXUP_ALPHA <= 0 and train.CUTMIX_ALPHA <= 0 and not train.CUTMIX_MINMAX
    ):
        return None
    return Mixup(
        num_classes=config.MODEL.NUM_CLASSES,
        mixup_alpha=train.MIXUP_ALPHA,
        cutmix_alpha=train.CUTMIX_ALPHA,
        cutmix_minmax=train.CUTMIX_MINMAX,
        probability=train.MIXUP_PROB,
        switch_probability=train.MIXUP_SWITCH_PROB,
        mode=train.MIXUP_MODE,
        smoothing=train.SMOOTHING,
    )


def _clipped_span(length: int, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Start and end of a span of `size` around a random center, clipped at the borders."""
    center = int(rng.integers(0, length))
    return max(0, center - size // 2), min(length, center + size // 2)


def _side(length: int, minmax: Sequence[float], rng: np.random.Generator) -> int:
    low, high = (int(length * share) for share in minmax)
    return int(rng.integers(low, max(high, low + 1)))
