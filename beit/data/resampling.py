"""A part of an image that Pillow would resize, equal in every bit, in the memory of that part.

An image of 1 x 100000 pixels whose shorter side becomes 256 has 6.5 billion pixels after the resize, of which the
center crop needs 50 thousand. Pillow's `resize(box=...)` computes a part too, but with other rounding: it stores the
box in single precision.

Source: Pillow src/libImaging/Resample.c. Two passes, one per axis, with 8-bit pixels in between; the weights are
fixed-point numbers with 22 bits after the point.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image

_PILLOW = tuple(map(int, PIL.__version__.split(".")[:2]))
_WEIGHT_BITS = 22  # PRECISION_BITS


def resize_part(
    image: Image.Image,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    resample: Image.Resampling,
) -> Image.Image:
    """The same as `image.resize(size, resample).crop(box)`.

    Args:
        image: in mode L or RGB.
        size: (width, height) of the whole resized image, pixels.
        box: left, top, right, bottom of the part, inside of `size`.
        resample: one of `KERNELS`.
    """
    left, top, right, bottom = box
    first_column, columns = _weights(image.width, size[0], left, right, resample)
    first_row, rows = _weights(image.height, size[1], top, bottom, resample)
    window = (first_column, first_row, first_column + columns.shape[1], first_row + rows.shape[1])
    pixels = np.asarray(image.crop(window))
    values = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)  # [C, rows, columns] of the window
    if _is_height_first(image.size, size):
        values = _round(_round(rows @ values) @ columns.T)
    else:
        values = _round(rows @ _round(values @ columns.T))
    values = values.transpose(1, 2, 0).astype(np.uint8)
    return Image.fromarray(values[..., 0] if image.mode == "L" else values)


def _is_height_first(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow resizes the height before the width."""
    (width, height), (new_width, new_height) = size, resized
    if _PILLOW >= (13, 0):
        return new_height < height and height - new_height > 2 * (width - new_width)
    return _PILLOW >= (12, 2) and new_height < height and height > 100 * width


def _weights(
    length: int, resized: int, start: int, stop: int, resample: Image.Resampling
) -> tuple[int, np.ndarray]:
    """The first pixel that the resized pixels `start` to `stop` need, and their weights for it and those after it.

    The weights are whole numbers in float64 `[stop - start, pixels]`: products with 8-bit pixels are exact.

    Args:
        length: of the axis, pixels.
        resized: its length after the resize, pixels.
        start: first resized pixel.
        stop: the one after the last.
        resample: one of `KERNELS`.
    """
    if resized == length:  # Pillow leaves this pass out
        return start, np.eye(stop - start) * (1 << _WEIGHT_BITS)
    kernel, radius = KERNELS[resample]
    scale = float(np.float32(length)) / resized  # Pillow's box is in single precision
    stretch = max(scale, 1.0)
    taps: list[tuple[int, list[float]]] = []
    for position in range(start, stop):
        center = (position + 0.5) * scale
        low = max(int(center - radius * stretch + 0.5), 0)
        high = min(int(center + radius * stretch + 0.5), length)
        weights = [kernel((x - center + 0.5) * (1.0 / stretch)) for x in range(low, high)]
        total = _sum(weights)
        taps.append((low, [_fixed_point(weight / total) for weight in weights]))
    first, last = taps[0][0], max(low + len(weights) for low, weights in taps)
    matrix = np.zeros((stop - start, last - first))
    for row, (low, fixed) in zip(matrix, taps, strict=True):
        row[low - first : low - first + len(fixed)] = fixed
    return first, matrix


def _sum(values: list[float]) -> float:
    """The sum with C's rounding after each addition; `sum` compensates the rounding from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


def _fixed_point(weight: float) -> float:
    scaled = weight * (1 << _WEIGHT_BITS)
    return float(int(scaled - 0.5 if weight < 0 else scaled + 0.5))


def _round(values: np.ndarray) -> np.ndarray:
    return np.floor((values + (1 << (_WEIGHT_BITS - 1))) / (1 << _WEIGHT_BITS)).clip(0, 255)


def _bilinear(x: float) -> float:
    return max(1.0 - abs(x), 0.0)


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * -0.5 if x < 2.0 else 0.0


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3) if -3.0 <= x < 3.0 else 0.0


def _sinc(x: float) -> float:
    return math.sin(x * math.pi) / (x * math.pi) if x else 1.0


KERNELS: dict[Image.Resampling, tuple[Callable[[float], float], float]] = {
    Image.Resampling.BILINEAR: (_bilinear, 1.0),
    Image.Resampling.BICUBIC: (_bicubic, 2.0),
    Image.Resampling.LANCZOS: (_lanczos, 3.0),
}
"""Filters, and how far each reaches, in pixels of the smaller of the two images."""
