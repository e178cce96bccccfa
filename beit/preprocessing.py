"""How images are prepared for a model: statistics, crop, filter. Part of the weights as much as the tensors are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Triple = tuple[float, float, float]

HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """What an image must go through for a checkpoint. None where neither weights nor companions tell.

    `mean`, `std` are per channel on [0, 1]; `crop_pct` is crop side / resized shorter side; sizes in pixels.
    `squash` says that images are resized to a square without regard to their shape, and not cropped;
    `exif_orientation` that they are turned as their EXIF tag says first.
    """

    mean: Triple | None = None
    std: Triple | None = None
    crop_pct: float | None = None
    interpolation: str = "bicubic"
    image_size: int | None = None
    pooling: str = ""
    squash: bool = False
    source: str = ""
    exif_orientation: bool = False

    @property
    def unknown(self) -> list[str]:
        """Names of the fields without which no picture can be prepared."""
        return [name for name in ("mean", "std", "crop_pct") if getattr(self, name) is None]


def preprocessing_of(config: Any) -> Preprocessing:
    """The preprocessing that a config evaluates with (`DATA.*`). `config` is the tree of `beit.config.get_config`."""
    data = config.DATA
    return Preprocessing(
        as_triple(data.IMAGENET_MEAN),
        as_triple(data.IMAGENET_STD),
        data.CROP_PCT,
        data.INTERPOLATION,
        data.IMAGE_SIZE if isinstance(data.IMAGE_SIZE, int) else None,
        "mean" if config.MODEL.USE_MEAN_POOLING else "token",
        source="config",
        exif_orientation=data.EXIF_ORIENTATION,
    )


def as_triple(value: object) -> Triple | None:
    """Three floats from a list or tuple of three numbers, else None."""
    if isinstance(value, list | tuple) and len(value) == 3:
        return (float(value[0]), float(value[1]), float(value[2]))
    return None
