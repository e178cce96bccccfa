"""Resizing and cropping of images as torchvision and transformers do it, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from beit.data.images import Size
from beit.data.resampling import KERNELS, resize_part

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, Pillow's order
Margin = Callable[[int, int], int]
"""From the length of the image and of the crop to the pixels cut off at the start."""
Place = tuple[int, int] | tuple[None, None]
"""Where a crop is: (horizontal, vertical), each 0 for the start and 1 for the end; `CENTER` for the center."""

CENTER: Place = (None, None)
FIVE_PLACES: tuple[Place, ...] = ((0, 0), (1, 0), (0, 1), (1, 1), CENTER)
"""The places of torchvision's `FiveCrop`: the corners in reading order, then the center."""
MAX_RESIZED_PIXELS = 2**26
"""An image that becomes larger than this when its aspect ratio is kept is refused (`resize_shorter_side`)."""
_WHOLE_PIXELS = 2**24  # resized images up to this size are computed whole; of larger ones only the crop is


def covering_size(size: Size, target: tuple[int, int]) -> Size:
    """The smallest (width, height) of the same aspect ratio that covers `target`.

    For a square target the shorter side becomes `side` and the longer int(side * long / short), as in torchvision.
    For a rectangle one side fits exactly and the other is at least as long.

    Args:
        size: (width, height), pixels.
        target: (height, width) to cover, pixels.
    """
    (width, height), (target_height, target_width) = size, target
    if width * target_height >= height * target_width:  # wider than the target: the height fits
        return width * target_height // height, target_height
    return target_width, height * target_width // width


def resize_shorter_side(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC
) -> Image.Image:
    """The image resized to `covering_size`.

    Args:
        image: to resize.
        size: (height, width) to cover, pixels.
        resample: filter.

    Raises:
        ValueError: the result has more than `MAX_RESIZED_PIXELS` pixels.
    """
    resized = covering_size(image.size, size)
    if resized[0] * resized[1] > MAX_RESIZED_PIXELS:
        raise ValueError(
            f"{image.width} x {image.height} pixels are too elongated: resized they become {resized[0]} x {resized[1]}"
        )
    return image if resized == image.size else image.resize(resized, resample)


def _torchvision_margin(length: int, cropped: int) -> int:
    """Pixels cut off at the start, half to even; negative: padded, with the odd pixel at the end."""
    return round((length - cropped) / 2.0) if length >= cropped else -((cropped - length) // 2)


def floor_margin(length: int, cropped: int) -> int:
    """Pixels cut off at the start, rounded down; negative: padded, with the odd pixel at the start."""
    return (length - cropped) // 2


def resize_and_crop(
    image: Image.Image,
    size: tuple[int, int],
    crop: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    margin: Margin = _torchvision_margin,
    place: Place = CENTER,
) -> Image.Image:
    """The crop of the image resized by `resize_shorter_side`, in bounded memory for every aspect ratio.

    Args:
        image: in mode L or RGB.
        size: (height, width) that the resized image covers, pixels.
        crop: (height, width) of the result, pixels.
        resample: one of `FILTERS`.
        margin, place: as in `center_crop`.

    Raises:
        ValueError: the image is too elongated for a filter that is not one of `beit.data.resampling.KERNELS`.
    """
    resized = covering_size(image.size, size)
    if resized[0] * resized[1] <= _WHOLE_PIXELS or resample not in KERNELS:
        return center_crop(resize_shorter_side(image, size, resample), crop, margin, place)
    left, top, right, bottom = _box(resized, crop, margin, place)
    part = max(left, 0), max(top, 0), min(right, resized[0]), min(bottom, resized[1])
    pixels = resize_part(image, resized, part, resample)
    return pixels.crop((left - part[0], top - part[1], right - part[0], bottom - part[1]))


def center_crop(
    image: Image.Image, size: tuple[int, int], margin: Margin = _torchvision_margin, place: Place = CENTER
) -> Image.Image:
    """The central (height, width) of the image, or a corner, padded with black where the image is smaller.

    Source: torchvision `center_crop` and `five_crop`; with `floor_margin` transformers' `center_crop`.

    Args:
        image: of any size.
        size: (height, width) of the result, pixels.
        margin: rounds an odd margin.
        place: the center or a corner; a side that is padded is centered.
    """
    return image.crop(_box(image.size, size, margin, place))


def _box(size: Size, crop: tuple[int, int], margin: Margin, place: Place) -> Box:
    height, width = crop
    left, top = (
        margin(length, cropped) if share is None or length < cropped else share * (length - cropped)
        for length, cropped, share in zip(size, (width, height), place, strict=True)
    )
    return left, top, left + width, top + height
