"""The arrays of the images that `BeitImageProcessor` is given, in the forms that transformers takes and in files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Literal, TypeAlias

import numpy as np
import paddle
from PIL import Image

from beit.data.image_input import EXPECTED, as_array, is_content, open_input, read_content
from beit.data.images import open_image, to_rgb

# B images; H, W size of an image; C channels

ImageLike: TypeAlias = "str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | paddle.Tensor"
Images: TypeAlias = "ImageLike | Sequence[ImageLike]"
ChannelOrder = Literal["channels_first", "channels_last"]


def list_images(images: Images, num_axes: int) -> list[ImageLike]:
    """Images as a list: from a single one, a sequence, or an array with a batch axis.

    Args:
        images: one or several.
        num_axes: of the array of one image, or one less for a gray one.

    Raises:
        ValueError: something else than images was passed.
    """
    if isinstance(images, str | Path | Image.Image) or is_content(images):
        return [images]
    array = as_array(images)
    if array is not None:
        return [array] if array.ndim <= num_axes else list(array)
    if not isinstance(images, Iterable):
        raise ValueError(f"got {type(images).__name__} as images; expected {EXPECTED}, or several of these")
    return [single for image in images for single in list_images(image, num_axes)]


def channels_first(image: ImageLike, order: ChannelOrder | None) -> np.ndarray:
    """`[C, H, W]`; without an order, the channels are the first axis if that has 1 or 3 entries, else the last.

    Raises:
        ImageError: a file is not a readable image.
        ValueError: an array is not an image.
    """
    pixels = as_array(image)
    if pixels is None:
        # transformers' processors do not turn Pillow images by their EXIF orientation.
        is_file = not isinstance(image, Image.Image)
        return np.asarray(open_input(image, exif_orientation=is_file)).transpose(2, 0, 1)
    if pixels.ndim == 2:
        return pixels[None]
    if pixels.ndim == 3 and pixels.shape[2] == 4 and pixels.dtype == np.uint8 and order != "channels_first":
        return np.asarray(to_rgb(Image.fromarray(pixels))).transpose(2, 0, 1)
    if pixels.ndim != 3 or (order is None and not {pixels.shape[0], pixels.shape[2]} & {1, 3}):
        raise ValueError(
            f"an array {list(pixels.shape)} is not an image: expected [H, W], or [H, W, C] or [C, H, W] with 1 or 3 "
            "channels, or uint8 [H, W, 4]"
        )
    is_first = order == "channels_first" or (order is None and pixels.shape[0] in (1, 3))
    return pixels if is_first else pixels.transpose(2, 0, 1)


def label_map(labels: ImageLike) -> np.ndarray:
    """`[H, W]` with the class numbers of a label map.

    Raises:
        ImageError: a file is not a readable image.
        ValueError: it has several channels.
    """
    if isinstance(labels, str | Path):
        labels = open_image(labels, keep_mode=True, exif_orientation=True)
    elif is_content(labels):
        name, data = read_content(labels)
        labels = open_image(name, data=data, keep_mode=True, exif_orientation=True)
    values = np.asarray(labels)
    if values.ndim != 2:
        raise ValueError(
            f"a label map {list(values.shape)}; expected [H, W] with the class number of each pixel"
        )
    return values


def to_pillow(pixels: np.ndarray) -> Image.Image:
    """A gray or RGB image of uint8 `[C, H, W]`."""
    return Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def planes(pixels: np.ndarray) -> np.ndarray:
    """`[C, H, W]` of `[H, W, C]` or `[H, W]`."""
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)


def is_fraction(pixels: np.ndarray) -> bool:
    """True for pixels in [0, 1] that are not all whole numbers, False for 0 to 255.

    Raises:
        ValueError: the pixels are neither.
    """
    if pixels.dtype == np.uint8:
        return False
    low, high = float(pixels.min()), float(pixels.max())
    if np.allclose(pixels, pixels.astype(int)) and low >= 0 and high <= 255:
        return False
    if low >= 0 and high <= 1:
        return True
    raise ValueError(f"pixels from {low:g} to {high:g}; expected whole numbers 0 to 255, or 0 to 1")
