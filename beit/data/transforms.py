"""The image transforms of timm and torchvision, written here because those libraries need torch.

Crops and resizes are Pillow's on 8-bit images, as in the official pipeline; an antialiased resize of float tensors
gives other numbers. The results are uint8 arrays; normalization and erasing follow on the device
(`batch_transforms`).

Shapes: H, W input size of the model; N erase boxes per image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.crops import (
    CENTER,
    FIVE_PLACES,
    Box,
    Place,
    center_crop,
    floor_margin,
    resize_and_crop,
    resize_shorter_side,
)
from beit.data.images import DRAFT_SCALES, ImageFile, Size
from beit.data.randaugment import RandAugment, parse_policy
from beit.preprocessing import PIL_FILTERS, ImageSize

Arrays = dict[str, np.ndarray]
Augment = Callable[[Image.Image, np.random.Generator], Image.Image]

FILTERS = {name: Image.Resampling(number) for number, name in enumerate(PIL_FILTERS)}


class Transform(ABC):
    """From an image to the named arrays of a training or evaluation sample."""

    @abstractmethod
    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Arrays:
        """Transform an RGB image. All random numbers come from `rng`."""

    def load(self, file: ImageFile, rng: np.random.Generator) -> Arrays:
        """Decode a file and transform it. A transform that can do with fewer pixels overrides this."""
        return self(file.decode(), rng)


def resized_crop_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A random crop box: its share of the area is uniform in `scale`, its width / height log-uniform in `ratio`.

    After ten draws that do not fit, the largest central box whose aspect ratio lies in `ratio`.
    Source: torchvision `RandomResizedCrop.get_params`; timm `RandomResizedCropAndInterpolation`.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        scale: range of the box's share of the area, within [0, 1].
        ratio: range of the box's width / height.
        rng: draws the box.

    Returns:
        (left, top, right, bottom) in pixels.
    """
    for _ in range(10):
        area = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(0, height - crop_height, endpoint=True))
            left = int(rng.integers(0, width - crop_width, endpoint=True))
            return left, top, left + crop_width, top + crop_height
    crop_width, crop_height = width, height
    if width / height < ratio[0]:
        crop_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_width = max(1, round(height * ratio[1]))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    return left, top, left + crop_width, top + crop_height


def erase_boxes(
    size: tuple[int, int], probability: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Random boxes to erase: (top, left, height, width) in pixels, int32 `[N, 4]`; zeros where nothing is erased.

    With `probability`, n boxes for n uniform from 1 to `count`, each of 2 % to 1/3 of the image's area divided by n, with
    an aspect ratio log-uniform from 0.3 to 1/0.3. A box that does not fit in ten draws is left out.
    Source: timm `RandomErasing` with the defaults of the official recipe and `max_count`.

    Args:
        size: (height, width) of the image, pixels.
        probability: of erasing anything.
        count: N, the largest number of boxes.
        rng: draws the boxes.
    """
    boxes = np.zeros((count, 4), np.int32)
    if rng.random() >= probability:
        return boxes
    height, width = size
    drawn = int(rng.integers(1, count, endpoint=True)) if count > 1 else 1
    for box in boxes[:drawn]:
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width / drawn
            aspect = math.exp(rng.uniform(math.log(0.3), -math.log(0.3)))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows < height and columns < width:
                top = rng.integers(0, height - rows, endpoint=True)
                left = rng.integers(0, width - columns, endpoint=True)
                box[:] = top, left, rows, columns
                break
    return boxes


@dataclass(frozen=True)
class ColorJitter:
    """Scale brightness, contrast and saturation by factors in [1 - strength, 1 + strength], in random order.

    Source: torchvision `ColorJitter(strength, strength, strength)`.
    """

    strength: float

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for choice in rng.permutation(len(enhancers)):
            factor = rng.uniform(max(0.0, 1 - self.strength), 1 + self.strength)
            image = enhancers[choice](image).enhance(factor)
        return image


@dataclass(frozen=True)
class TrainTransform(Transform):
    """Random resized crop, flip, then RandAugment or color jitter; and the boxes to erase later.

    Returns: `image` uint8 `[3, H, W]`, `erase` int32 `[N, 4]`.
    Source: timm `create_transform`, as called by the official `datasets.py`; with `jitter` its `build_vqkd_dataset`.

    Args:
        size: (height, width) of the result, pixels.
        scale: range of the crop's share of the area.
        ratio: range of the crop's width / height.
        hflip: probability of mirroring.
        resample: filter of the resize.
        jitter: applied to the whole image before the crop; None for nothing.
        augment: applied after the flip; None for nothing.
        erase_probability: of erasing anything.
        erase_count: N.
        scaled_decoding: let `load` decode a JPEG smaller where the crop keeps at least as many pixels as the result.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    resample: Image.Resampling = Image.Resampling.BICUBIC
    jitter: Augment | None = None
    augment: Augment | None = None
    erase_probability: float = 0.0
    erase_count: int = 1
    scaled_decoding: bool = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Arrays:
        return self._apply(image, self._draw_box(image.size, rng), 1, rng)

    def load(self, file: ImageFile, rng: np.random.Generator) -> Arrays:
        box = self._draw_box(file.size, rng)
        scale = self._draft_scale(box) if self.scaled_decoding else 1
        image = file.decode(scale)
        return self._apply(image, box, 1 if image.size == file.size else scale, rng)

    def _draw_box(self, size: Size, rng: np.random.Generator) -> Box:
        return resized_crop_box(*size, self.scale, self.ratio, rng)

    def _draft_scale(self, box: Box) -> int:
        """The largest scale at which the box still has at least as many rows and columns as the result."""
        left, top, right, bottom = box
        height, width = self.size
        enlargement = max(1.0, min((right - left) / width, (bottom - top) / height))
        return max(scale for scale in DRAFT_SCALES if scale <= enlargement)

    def _apply(self, image: Image.Image, box: Box, draft_scale: int, rng: np.random.Generator) -> Arrays:
        """Crop and augment an image that was decoded `draft_scale` times smaller; `box` is in full-size pixels."""
        if self.jitter is not None:
            image = self.jitter(image, rng)
        image = self._crop(image, box, draft_scale)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment is not None:
            image = self.augment(image, rng)
        boxes = erase_boxes(self.size, self.erase_probability, self.erase_count, rng)
        return {"image": channels_first(image), "erase": boxes}

    def _crop(self, image: Image.Image, box: Box, draft_scale: int) -> Image.Image:
        size = self.size[::-1]
        if draft_scale == 1:
            # Crop first: resize(box=...) would let pixels from outside of the crop into the filter.
            return image.crop(box).resize(size, self.resample)
        # Not rounded: half a pixel of the smaller image is up to four pixels of the full-size image.
        left, top, right, bottom = (edge / draft_scale for edge in box)
        return image.resize(size, self.resample, (left, top, right, bottom))


@dataclass(frozen=True)
class EvalTransform(Transform):
    """Resize, then crop the center, or the four corners and the center.

    Returns: `image` uint8 `[3, H, W]`; with five crops `[5, 3, H, W]` in the order of torchvision's `FiveCrop`.
    Source: official `datasets.py` `build_transform`: Resize(int(size / crop_pct)), CenterCrop(size); with `squash` timm's
    `crop_mode` "squash"; with `resize` transformers' image processors.

    Args:
        size: (height, width) of the result, pixels.
        crop_pct: crop side / resized shorter side; 0.875 resizes to 256 for 224, the protocol uses 1.0 from 384 on.
        resample: filter of the resize.
        squash: resize to exactly size / crop_pct; the aspect ratio is not kept.
        resize, center_crop: as in `beit.preprocessing.Preprocessing`.
        crops: 1 or 5.

    Raises:
        ValueError: without `center_crop`, an image does not have the size after the resize.
    """

    size: tuple[int, int]
    crop_pct: float = 0.9
    resample: Image.Resampling = Image.Resampling.BICUBIC
    squash: bool = False
    resize: ImageSize | None = None
    center_crop: bool = True
    crops: int = 1

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Arrays:
        if self.crops == 1:
            return {"image": channels_first(self._prepare(image, CENTER))}
        return {"image": np.stack([channels_first(self._prepare(image, place)) for place in FIVE_PLACES])}

    def _prepare(self, image: Image.Image, place: Place) -> Image.Image:
        if self.resize is None:
            goal = int(self.size[0] / self.crop_pct), int(self.size[1] / self.crop_pct)
            if self.squash:
                return center_crop(image.resize(goal[::-1], self.resample), self.size, place=place)
            return resize_and_crop(image, goal, self.size, self.resample, place=place)
        side = self.resize if isinstance(self.resize, int) else 0
        if side and self.center_crop:
            return resize_and_crop(image, (side, side), self.size, self.resample, floor_margin, place)
        resized = image
        if side:
            resized = resize_shorter_side(image, (side, side), self.resample)
        elif isinstance(self.resize, tuple):
            resized = image.resize(self.resize[::-1], self.resample)
        if not self.center_crop and resized.size != self.size[::-1]:
            raise ValueError(
                f"an image of {image.height}x{image.width} pixels (height x width) is {resized.height}x{resized.width} "
                f"after the resize, the model takes {self.size[0]}x{self.size[1]}, and the preprocessing does not crop: "
                "give images of that size, or set a crop (do_center_crop, DATA.CENTER_CROP)"
            )
        return center_crop(resized, self.size, floor_margin, place)


def build_train_transform(config: CfgNode, *, jitter_first: bool = False) -> TrainTransform:
    """The training transform as DATA.* and TRAIN.* set it.

    Args:
        config: of the run.
        jitter_first: apply color jitter before the crop, as VQ-KD; False: after the flip, as timm.
    """
    jitter = ColorJitter(config.TRAIN.COLOR_JITTER) if config.TRAIN.COLOR_JITTER else None
    augment: Augment | None = None if jitter_first else jitter
    if config.TRAIN.AUTO_AUGMENT:
        # timm's fill color: the mean, so that the corners of rotated images are zero after normalization
        red, green, blue = (min(255, round(255 * mean)) for mean in config.DATA.IMAGENET_MEAN)
        augment = RandAugment(parse_policy(config.TRAIN.AUTO_AUGMENT), fill=(red, green, blue))
    return TrainTransform(
        image_hw(config),
        scale=tuple(config.TRAIN.SCALE),
        ratio=tuple(config.TRAIN.RATIO),
        hflip=config.TRAIN.HFLIP,
        resample=train_filter(config),
        jitter=jitter if jitter_first and not config.TRAIN.AUTO_AUGMENT else None,
        augment=augment,
        erase_probability=config.TRAIN.RANDOM_ERASE_PROB,
        erase_count=config.TRAIN.RANDOM_ERASE_COUNT,
        scaled_decoding=config.DATA.SCALED_DECODING,
    )


def train_filter(config: CfgNode) -> Image.Resampling:
    """The resize filter of the training transforms."""
    return FILTERS[config.TRAIN.INTERPOLATION or config.DATA.INTERPOLATION]


def channels_first(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB image, uint8 `[3, H, W]`."""
    # A third faster than NumPy's transpose.
    planes = bytearray().join(plane.tobytes() for plane in image.split())
    return np.frombuffer(planes, np.uint8).reshape(3, image.height, image.width)
