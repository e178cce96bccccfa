"""RandAugment with timm's operations and magnitudes for `rand-m9-mstd0.5-inc1`, written here because timm needs torch.

Source: timm `auto_augment.py`, `_RAND_INCREASING_TRANSFORMS` and `rand_augment_transform`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Color = tuple[int, int, int]
Op = Callable[[Image.Image, float, Color], Image.Image]
Level = Callable[[float, np.random.Generator], float]

_MAX_MAGNITUDE = 10
# `--train_interpolation bicubic` of the recipe; timm's default is random.
_RESAMPLE = Image.Resampling.BICUBIC

# Operations: from an RGB image, the level and the fill color to an image. Those without geometry ignore the color.


def auto_contrast(image: Image.Image, level: float, fill: Color) -> Image.Image:
    """Stretch each channel to the full range."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, level: float, fill: Color) -> Image.Image:
    """Equalize the histogram of each channel."""
    return ImageOps.equalize(image)


def invert(image: Image.Image, level: float, fill: Color) -> Image.Image:
    """Invert all values."""
    return ImageOps.invert(image)


def rotate(image: Image.Image, degrees: float, fill: Color) -> Image.Image:
    """Rotate counterclockwise around the center."""
    return image.rotate(degrees, resample=_RESAMPLE, fillcolor=fill)


def posterize(image: Image.Image, bits: float, fill: Color) -> Image.Image:
    """Keep the highest bits of each value."""
    # Not ImageOps.posterize: from Pillow 13 on it refuses 0 bits, the level of magnitude 10.
    dropped = 8 - int(bits)
    return image.point([value >> dropped << dropped for value in range(256)] * 3)


def solarize(image: Image.Image, threshold: float, fill: Color) -> Image.Image:
    """Invert all values from the threshold on."""
    return ImageOps.solarize(image, int(threshold))


def solarize_add(image: Image.Image, addend: float, fill: Color) -> Image.Image:
    """Add to the values below 128 only."""
    table = [min(255, value + int(addend)) if value < 128 else value for value in range(256)]
    return image.point(table * 3)


def color(image: Image.Image, factor: float, fill: Color) -> Image.Image:
    """Scale the saturation; 0 is gray, 1 no change."""
    return ImageEnhance.Color(image).enhance(factor)


def contrast(image: Image.Image, factor: float, fill: Color) -> Image.Image:
    """Scale the contrast; 0 is uniform gray, 1 no change."""
    return ImageEnhance.Contrast(image).enhance(factor)


def brightness(image: Image.Image, factor: float, fill: Color) -> Image.Image:
    """Scale the brightness; 0 is black, 1 no change."""
    return ImageEnhance.Brightness(image).enhance(factor)


def sharpness(image: Image.Image, factor: float, fill: Color) -> Image.Image:
    """Scale the sharpness; 0 is smoothed, 1 no change."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def shear_x(image: Image.Image, slope: float, fill: Color) -> Image.Image:
    """Shear horizontally."""
    return _affine(image, (1, slope, 0, 0, 1, 0), fill)


def shear_y(image: Image.Image, slope: float, fill: Color) -> Image.Image:
    """Shear vertically."""
    return _affine(image, (1, 0, 0, slope, 1, 0), fill)


def translate_x(image: Image.Image, share: float, fill: Color) -> Image.Image:
    """Shift horizontally by a share of the width."""
    return _affine(image, (1, 0, share * image.width, 0, 1, 0), fill)


def translate_y(image: Image.Image, share: float, fill: Color) -> Image.Image:
    """Shift vertically by a share of the height."""
    return _affine(image, (1, 0, 0, 0, 1, share * image.height), fill)


def _affine(image: Image.Image, matrix: tuple[float, ...], fill: Color) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=_RESAMPLE, fillcolor=fill)


# Levels: from m, the magnitude scaled to [0, 1], to the level of an operation. Signs are random.


def _no_level(m: float, rng: np.random.Generator) -> float:
    return 0.0


def _either_sign(value: float, rng: np.random.Generator) -> float:
    return -value if rng.random() > 0.5 else value


def _rotate_level(m: float, rng: np.random.Generator) -> float:
    return _either_sign(30.0 * m, rng)


def _shear_level(m: float, rng: np.random.Generator) -> float:
    return _either_sign(0.3 * m, rng)


def _translate_level(m: float, rng: np.random.Generator) -> float:
    return _either_sign(0.45 * m, rng)


def _enhance_level(m: float, rng: np.random.Generator) -> float:
    return max(0.1, 1.0 + _either_sign(0.9 * m, rng))


def _posterize_level(m: float, rng: np.random.Generator) -> float:
    return 4 - int(4 * m)


def _solarize_level(m: float, rng: np.random.Generator) -> float:
    return 256 - min(256, int(256 * m))


def _solarize_add_level(m: float, rng: np.random.Generator) -> float:
    return min(128, int(110 * m))


OPS: dict[str, tuple[Op, Level]] = {
    "AutoContrast": (auto_contrast, _no_level),
    "Equalize": (equalize, _no_level),
    "Invert": (invert, _no_level),
    "Rotate": (rotate, _rotate_level),
    "PosterizeIncreasing": (posterize, _posterize_level),
    "SolarizeIncreasing": (solarize, _solarize_level),
    "SolarizeAdd": (solarize_add, _solarize_add_level),
    "ColorIncreasing": (color, _enhance_level),
    "ContrastIncreasing": (contrast, _enhance_level),
    "BrightnessIncreasing": (brightness, _enhance_level),
    "SharpnessIncreasing": (sharpness, _enhance_level),
    "ShearX": (shear_x, _shear_level),
    "ShearY": (shear_y, _shear_level),
    "TranslateXRel": (translate_x, _translate_level),
    "TranslateYRel": (translate_y, _translate_level),
}


@dataclass(frozen=True)
class Policy:
    """The parameters of RandAugment, see `parse_policy`.

    Args:
        magnitude: mean strength of an operation, within [0, 10].
        magnitude_std: standard deviation of the strength, which is drawn for each operation.
        num_ops: operations drawn per image, with replacement.
        probability: of applying an operation that was drawn.
    """

    magnitude: float = 10.0
    magnitude_std: float = 0.0
    num_ops: int = 2
    probability: float = 0.5


_FIELDS = {"m": "magnitude", "mstd": "magnitude_std", "n": "num_ops", "p": "probability"}
_HIGHEST = {"magnitude": _MAX_MAGNITUDE, "magnitude_std": 100, "num_ops": 100, "probability": 1}


def parse_policy(text: str) -> Policy:
    """Parse a timm string: `rand`, then in any order -mM (magnitude), -mstdS (its deviation), -nN, -pP and -inc1.

    Raises:
        ValueError: another augmentation than `rand`, an unknown part, a value out of range, or no `-inc1`: the
            operations that become weaker with the magnitude are not part of any BEiT recipe.
    """
    name, *parts = text.split("-")
    if name != "rand":
        raise ValueError(f"TRAIN.AUTO_AUGMENT={text!r}: {name!r} is not known, only RandAugment ('rand-...')")
    values: dict[str, float] = {}
    increasing = False
    for part in parts:
        match = re.fullmatch(r"(m|mstd|n|p|inc)(\d+(?:\.\d+)?)", part)
        if match is None or (match[1] == "n" and "." in match[2]):
            raise ValueError(
                f"TRAIN.AUTO_AUGMENT={text!r}: part {part!r} is not understood; parts are -m9 (magnitude), "
                "-mstd0.5 (its deviation), -n2 (operations), -p0.5 (probability), -inc1"
            )
        if match[1] == "inc":
            increasing = match[2] != "0"
            continue
        field = _FIELDS[match[1]]
        values[field] = float(match[2])
        if values[field] > _HIGHEST[field]:
            raise ValueError(f"TRAIN.AUTO_AUGMENT={text!r}: {field} {match[2]} is above {_HIGHEST[field]}")
    if not increasing:
        raise ValueError(f"TRAIN.AUTO_AUGMENT={text!r}: only the increasing operations exist; append -inc1")
    num_ops = int(values.pop("num_ops", Policy.num_ops))
    return Policy(num_ops=num_ops, **values)


@dataclass(frozen=True)
class RandAugment:
    """Apply random operations to an RGB image.

    Args:
        policy: number, strength and probability of the operations.
        fill: color, 0 to 255, of the pixels that a geometric operation uncovers.
    """

    policy: Policy
    fill: Color

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        names = list(OPS)
        for choice in rng.integers(len(names), size=self.policy.num_ops):
            if rng.random() > self.policy.probability:
                continue
            magnitude = rng.normal(self.policy.magnitude, self.policy.magnitude_std)
            op, level = OPS[names[choice]]
            share = min(max(magnitude, 0.0), _MAX_MAGNITUDE) / _MAX_MAGNITUDE
            image = op(image, level(share, rng), self.fill)
        return image
