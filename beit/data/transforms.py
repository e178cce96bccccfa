"""From a decoded picture to the uint8 array the model's batch is made of.

Geometry is Pillow's on 8-bit pictures, as in the official pipeline (timm and torchvision on PIL images): an
antialiased resize of float tensors gives other numbers. Normalization and erasing follow on the device
(`batch_transforms`).

Shapes: H, W the input size of the model; N erase boxes per image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.images import DIVISORS, FULL_SIZE, Size
from beit.data.randaugment import RandAugment, parse_policy

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as Pillow has it
Augment = Callable[[Image.Image, np.random.Generator], Image.Image]

FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_MAX_ELONGATION = 64  # the center crop never looks that far; a picture of 1 x 20000 would get 5 million rows


def resized_crop_box(
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """A random part of the picture: area share uniform in `scale`, width / height log-uniform in `ratio`.

    After ten draws that do not fit, the largest central part whose aspect lies in `ratio`.
    Source: torchvision `RandomResizedCrop.get_params`; timm `RandomResizedCropAndInterpolation`.
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


def resize_shorter_side(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The picture scaled, aspect kept, so that it just covers `size`.

    For a square `size` the shorter side gets it and the longer side int(size * long / short), as torchvision.
    A rectangle is covered the same way: one side fits exactly, the other is as long or longer.

    Args:
        size: (height, width) to cover.
    """
    height, width = size
    if image.width * height >= image.height * width:  # relatively wider than `size`: the height fits
        resized = (image.width * height // image.height, height)
    else:
        resized = (width, image.height * width // image.width)
    return image if resized == image.size else image.resize(resized, resample)


def center_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The central (height, width) of the picture; beyond its borders black.

    Source: torchvision `center_crop`, whose margins round half to even and whose padding puts the odd pixel
    to the right and bottom.
    """
    height, width = size
    left = _crop_margin(image.width, width)
    top = _crop_margin(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _crop_margin(length: int, cropped: int) -> int:
    return round((length - cropped) / 2.0) if length >= cropped else -((cropped - length) // 2)


def erase_boxes(
    size: tuple[int, int], probability: float, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Where to erase: (top, left, height, width) in pixels, int32 `[N, 4]`; zeros where nothing is erased.

    With `probability`, `count` boxes that share 2 % to 1/3 of the image, aspect log-uniform in 0.3 to 1/0.3;
    a box that does not fit in ten draws is left out.
    Source: timm `RandomErasing`, the recipe's defaults.
    """
    boxes = np.zeros((count, 4), np.int32)
    if rng.random() >= probability:
        return boxes
    height, width = size
    for box in boxes:
        for _ in range(10):
            area = rng.uniform(0.02, 1 / 3) * height * width / count
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
    """Brightness, contrast, saturation, each times a factor in [1 - strength, 1 + strength], in random order.

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
class TrainTransform:
    """Random resized crop, flip, then RandAugment or color jitter; and the boxes to erase later.

    Returns: `image` uint8 `[3, H, W]`, `erase` int32 `[N, 4]`.
    Source: timm `create_transform`, as called by the official `datasets.py`.

    Args:
        size: (height, width) of the result, pixels.
        scale: range of the crop's share of the area.
        ratio: range of the crop's width / height.
        hflip: probability of mirroring.
        augment: what follows the flip; None for nothing.
        erase_probability: of erasing anything.
        erase_count: boxes per erased image.
        scaled_decoding: take pictures that were decoded smaller than they are, see `divisor`.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    resample: Image.Resampling = Image.Resampling.BICUBIC
    augment: Augment | None = None
    erase_probability: float = 0.0
    erase_count: int = 1
    scaled_decoding: bool = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> dict[str, np.ndarray]:
        image = self._cut(image, rng)
        if rng.random() < self.hflip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment is not None:
            image = self.augment(image, rng)
        boxes = erase_boxes(self.size, self.erase_probability, self.erase_count, rng)
        return {"image": channels_first(image), "erase": boxes}

    def divisor(self, full_size: Size, rng: np.random.Generator) -> int:
        """How many times smaller a picture may be decoded: the crop is still as large as the result, or larger.

        1 without `scaled_decoding`.

        Args:
            full_size: (width, height) of the picture.
            rng: in the state in which the call will get it.
        """
        if not self.scaled_decoding:
            return 1
        left, top, right, bottom = resized_crop_box(*full_size, self.scale, self.ratio, rng)
        height, width = self.size
        room = max(1.0, min((right - left) / width, (bottom - top) / height))
        return max(divisor for divisor in DIVISORS if divisor <= room)

    def _cut(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """The random part of the picture in the size of the result; the draws are those of the whole picture."""
        full_width, full_height = image.info.get(FULL_SIZE, image.size)
        box = resized_crop_box(full_width, full_height, self.scale, self.ratio, rng)
        if image.size == (full_width, full_height):
            # Crop first: resize(box=...) alone would filter across the borders of the crop and differ there.
            return image.crop(box).resize(self.size[::-1], self.resample)
        divisor = round(full_width / image.width)  # the decoder rounds sides up
        # Not rounded to pixels: half a pixel of these would be several of the picture's.
        left, top, right, bottom = (edge / divisor for edge in box)
        return image.resize(self.size[::-1], self.resample, (left, top, right, bottom))


@dataclass(frozen=True)
class EvalTransform:
    """Resize so that the crop is `crop_pct` of the shorter side, then the center.

    Returns: `image` uint8 `[3, H, W]`.
    Source: official `datasets.py` `build_transform`: Resize(int(size / crop_pct)), CenterCrop(size).

    Args:
        size: (height, width) of the result, pixels.
        crop_pct: crop side / resized side; 0.875 gives 256 for 224, 1.0 is the protocol from 384 on.
    """

    size: tuple[int, int]
    crop_pct: float = 0.9
    resample: Image.Resampling = Image.Resampling.BICUBIC

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> dict[str, np.ndarray]:
        height, width = self.size
        longest = _MAX_ELONGATION * min(image.size)
        if max(image.size) > longest:
            image = center_crop(image, (min(image.height, longest), min(image.width, longest)))
        resized = int(height / self.crop_pct), int(width / self.crop_pct)
        image = resize_shorter_side(image, resized, self.resample)
        return {"image": channels_first(center_crop(image, self.size))}


def build_train_transform(config: CfgNode) -> TrainTransform:
    """The training transform of DATA.* and TRAIN.*."""
    augment: Augment | None = None
    if config.TRAIN.AUTO_AUGMENT:
        # the same fill as timm: the mean color, so that turned corners are zero after normalization
        red, green, blue = (min(255, round(255 * mean)) for mean in config.DATA.IMAGENET_MEAN)
        augment = RandAugment(parse_policy(config.TRAIN.AUTO_AUGMENT), fill=(red, green, blue))
    elif config.TRAIN.COLOR_JITTER:
        augment = ColorJitter(config.TRAIN.COLOR_JITTER)
    return TrainTransform(
        image_hw(config),
        scale=tuple(config.TRAIN.SCALE),
        ratio=tuple(config.TRAIN.RATIO),
        hflip=config.TRAIN.HFLIP,
        resample=FILTERS[config.DATA.INTERPOLATION],
        augment=augment,
        erase_probability=config.TRAIN.RANDOM_ERASE_PROB,
        erase_count=config.TRAIN.RANDOM_ERASE_COUNT,
        scaled_decoding=config.DATA.SCALED_DECODING,
    )


def build_eval_transform(config: CfgNode) -> EvalTransform:
    """The evaluation transform of DATA.*."""
    return EvalTransform(image_hw(config), config.DATA.CROP_PCT, FILTERS[config.DATA.INTERPOLATION])


def channels_first(image: Image.Image) -> np.ndarray:
    """The pixels of an RGB picture, uint8 `[3, H, W]`."""
    planes = bytearray().join(
        plane.tobytes() for plane in image.split()
    )  # a third faster than NumPy's transpose
    return np.frombuffer(planes, np.uint8).reshape(3, image.height, image.width)
