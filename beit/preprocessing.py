"""How images are prepared for a model: statistics, crop, filter. They belong to the weights like the tensors do."""

from __future__ import annotations

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
PIL_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic")
"""Names of resampling filters; the position is Pillow's number for the filter, as transformers writes it."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image must be prepared for a model. A field is None where neither the weights nor the files beside them say.

    Args:
        mean, std: per channel, of RGB values in [0, 1].
        crop_pct: side of the central crop / shorter side after resizing, in (0, 1].
        interpolation: filter of the resize: "nearest", "lanczos", "bilinear" or "bicubic".
        image_size: of the model's input: side of a square, or (height, width), pixels.
        pooling: features that the head classifies: "mean" of the patch tokens, class "token", or "" for unknown.
        squash: resize to the image size without keeping the aspect ratio, and do not crop.
        source: how these values are known, for messages.
        exif_orientation: first rotate the image as its EXIF tag says.

    Example:
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
    exif_orientation: bool = False

    @property
    def unknown(self) -> list[str]:
        """Names of the unknown fields without which no image can be prepared."""
        return [name for name in ("mean", "std", "crop_pct") if getattr(self, name) is None]


def preprocessing_of(config: Any) -> Preprocessing:
    """The preprocessing that a config evaluates with (`DATA.*`).

    Args:
        config: the tree of `beit.config.get_config`.
    """
    data = config.DATA
    return Preprocessing(
        as_triple(data.IMAGENET_MEAN),
        as_triple(data.IMAGENET_STD),
        data.CROP_PCT,
        data.INTERPOLATION,
        as_size(data.IMAGE_SIZE),
        "mean" if config.MODEL.USE_MEAN_POOLING else "token",
        source="config",
        exif_orientation=data.EXIF_ORIENTATION,
    )


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
    """Three floats from a list or tuple of three numbers, else None."""
    if isinstance(value, list | tuple) and len(value) == 3:
        return (float(value[0]), float(value[1]), float(value[2]))
    return None
