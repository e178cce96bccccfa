"""How images are prepared for a model: statistics, resize, crop, filter. Weights give wrong results with others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Triple = tuple[float, float, float]
ImageSize = int | tuple[int, int]
"""Side of a square image, or (height, width) of another, pixels."""

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
OFFICIAL_CROP = 0.875
"""`crop_pct` of the official evaluation at 224 pixels: the shorter side is resized to 256."""
_IMAGENET_CLASSES = (1000, 21841)
PIL_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Names of resampling filters; the position is Pillow's number for the filter, as transformers writes it."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image must be prepared for a model. A field is None where neither the weights nor the files beside them say.

    Args:
        mean, std: per channel, of RGB values in [0, 1].
        crop_pct: side of the central crop / shorter side after resizing, in (0, 1].
        interpolation: filter of the resize, of `PIL_FILTERS`; "" for unknown.
        image_size: size of the model's input in pixels: side of a square, or (height, width).
        pooling: features that the head classifies: "mean" of the patch tokens, class "token", or "" for unknown.
        squash: resize without keeping the aspect ratio.
        source: where these values come from, for messages.
        exif_orientation: first turn the image as its EXIF orientation says; None where nothing says it. Then images are
            turned in prediction, see `is_turned`.
        resize: explicit size after the resize, pixels, which replaces `crop_pct` and `squash`: the shorter side (the
            aspect ratio is kept), or (height, width) (it is not kept); 0 for no resize. None for image size / `crop_pct`.
        center_crop: with an explicit `resize`, cut out the center as transformers does; False: the image must then have
            the image size.
        reduce_labels: label maps: 0 means no class, 1 is the first class; None for unknown.

    Examples:
        beit.Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=0.9)
    """

    mean: Triple | None = None
    std: Triple | None = None
    crop_pct: float | None = None
    interpolation: str = "bicubic"
    image_size: ImageSize | None = None
    pooling: str = ""
    squash: bool = False
    source: str = ""
    exif_orientation: bool | None = None
    resize: ImageSize | None = None
    center_crop: bool = True
    reduce_labels: bool | None = None

    def check(self) -> None:
        """Refuse values with which no image can be prepared, or only a wrong one.

        Raises:
            ValueError: a standard deviation is not above 0, `crop_pct` not in (0, 1], or the filter unknown.
        """
        if self.std is not None and not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"std {self.std}; expected three numbers above 0, for pixels in [0, 1]")
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            raise ValueError(f"mean {self.mean}; expected three numbers, for pixels in [0, 1]")
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ValueError(
                f"crop_pct {self.crop_pct}; expected a share of the resized side, above 0 and at most 1"
            )
        if self.interpolation and self.interpolation not in PIL_FILTERS:
            raise ValueError(
                f"interpolation {self.interpolation!r}; expected one of {', '.join(PIL_FILTERS)}"
            )

    @property
    def is_turned(self) -> bool:
        """Whether images are turned by their EXIF orientation in prediction: unless the weights say that they are not."""
        return self.exif_orientation is not False

    @property
    def unknown(self) -> list[str]:
        """Names of the unknown fields without which no image can be prepared."""
        is_resized = self.resize is not None
        needed = ("mean", "std", *(() if is_resized else ("crop_pct",)), "interpolation")
        return [name for name in needed if getattr(self, name) in (None, "")]

    @property
    def resize_and_crop(self) -> tuple[ImageSize | None, bool]:
        """Size after the resize in pixels, in the forms of `resize` (None if unknown), and whether a center crop follows.

        A `crop_pct` is converted to pixels. For images that are not square and keep their aspect ratio, the size is the
        (height, width) that the resized image must cover.
        """
        if self.resize is not None:
            is_final = isinstance(self.resize, tuple) and as_size(self.resize) == self.image_size
            return self.resize, self.center_crop or is_final
        if self.image_size is None or (self.crop_pct is None and not self.squash):
            return None, True
        height, width = (int(side / (self.crop_pct or 1.0)) for side in height_width(self.image_size))
        return height if height == width and not self.squash else (height, width), True

    def describe_resize(self) -> str:
        """Resize and crop in words; empty if they are unknown."""
        if self.resize is None:
            if self.squash and self.crop_pct in (None, 1):
                return "squashed to the image size"
            crop = f"crop {self.crop_pct}" if self.crop_pct else ""
            return f"squashed, {crop}" if self.squash else crop
        if isinstance(self.resize, tuple):
            resize = "x".join(map(str, self.resize))
        else:
            resize = f"shorter side {self.resize}" if self.resize else "no resize"
        return f"{resize}, {'center crop' if self.center_crop else 'no crop'}"


def preprocessing_of(config: Any) -> Preprocessing:
    """The preprocessing that a config evaluates with (`DATA.*`).

    Args:
        config: the tree of `beit.config.get_config`.
    """
    data = config.DATA
    resize = data.get("RESIZE")  # configs of runs of earlier versions do not have it
    return Preprocessing(
        as_triple(data.IMAGENET_MEAN),
        as_triple(data.IMAGENET_STD),
        data.CROP_PCT,
        data.INTERPOLATION,
        as_size(data.IMAGE_SIZE),
        "mean" if config.MODEL.USE_MEAN_POOLING else "token",
        source="config",
        exif_orientation=exif_orientation_of(config),
        resize=(resize[0], resize[1]) if isinstance(resize, list | tuple) else resize,
        center_crop=data.get("CENTER_CROP", True),
        reduce_labels=data.get("REDUCE_ZERO_LABEL") if config.get("TASK") == "segment" else None,
    )


def exif_orientation_of(config: Any) -> bool | None:
    """Whether a config turns the images of its data set by their EXIF orientation: `DATA.EXIF_ORIENTATION` if it is set.

    Otherwise True; or None for the data sets of the published protocols, whose images are read as they are stored.

    Args:
        config: the tree of `beit.config.get_config`.
    """
    data = config.DATA
    if data.EXIF_ORIENTATION is not None:
        return bool(data.EXIF_ORIENTATION)
    dataset = data.get("DATASET")
    is_imagenet = (
        dataset in ("imagenet2012", "test_folder") and config.MODEL.get("NUM_CLASSES") in _IMAGENET_CLASSES
    )
    return None if is_imagenet or dataset == "ade20k" else True


def as_size(value: object) -> ImageSize | None:
    """Image size from a number or a list of height and width, which may be equal; None from anything else."""
    sides: list[Any] = list(value) if isinstance(value, list | tuple) else [value, value]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        return None
    height, width = sides
    return height if height == width else (height, width)


def height_width(size: ImageSize) -> tuple[int, int]:
    """(height, width) of an image size."""
    return (size, size) if isinstance(size, int) else size


def as_triple(value: object) -> Triple | None:
    """Three floats from one number, or from a list or tuple of one or three; else None."""
    numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    if len(numbers) != 3 or not all(type(number) in (int, float) for number in numbers):
        return None
    return (float(numbers[0]), float(numbers[1]), float(numbers[2]))
