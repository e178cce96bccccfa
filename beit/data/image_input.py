"""One image from what users pass: a file, the bytes of a file, an open file, a Pillow image, an array."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, TypeGuard

import numpy as np
from PIL import ExifTags, Image, ImageOps

from beit.data.images import MAX_PIXELS, open_image, to_rgb

ImageInput = str | Path | bytes | IO[bytes] | Image.Image | np.ndarray
"""One image: a file by its path, the bytes of a file, an open binary file, a Pillow image, or an array (`open_input`);
Paddle tensors are taken as arrays."""

EXPECTED = "a path, the bytes of an image file, an open binary file, a Pillow image, or an array"


def open_input(
    image: ImageInput, *, exif_orientation: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The image in mode RGB.

    Args:
        image: a file, its bytes, an open binary file (read from its beginning), a Pillow image, or an array `[H, W]`,
            `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` (RGBA), uint8 from 0 to 255 or floats from 0 to 1. Arrays are RGB;
            those of OpenCV are BGR: pass `array[..., ::-1]`.
        exif_orientation: turn and mirror a file or a Pillow image as its EXIF tag says.
        max_pixels: width x height above which a file is refused before it is decoded.

    Raises:
        ImageError: the file cannot be read.
        ValueError: the array is not an image, or `image` has another type.
    """
    if isinstance(image, Image.Image):
        has_tag = exif_orientation and ExifTags.Base.Orientation in image.getexif()
        return to_rgb(ImageOps.exif_transpose(image) if has_tag else image)
    if isinstance(image, str | Path):
        return open_image(image, exif_orientation=exif_orientation, max_pixels=max_pixels)
    if is_content(image):
        name, data = read_content(image)
        return open_image(name, data=data, exif_orientation=exif_orientation, max_pixels=max_pixels)
    array = as_array(image)
    if array is None:
        raise ValueError(f"got {type(image).__name__} as image; expected {EXPECTED}")
    return to_rgb(Image.fromarray(_eight_bits(array)))


def is_content(image: object) -> TypeGuard[bytes | IO[bytes]]:
    """Whether an image is given as the bytes of a file, or as an open file."""
    return isinstance(image, bytes) or hasattr(image, "read")


def read_content(image: bytes | IO[bytes]) -> tuple[str, bytes]:
    """A name for messages, and the bytes of an image file that is given as bytes or open.

    Raises:
        ValueError: the file is open in text mode.
    """
    if isinstance(image, bytes):
        return f"an image of {len(image)} bytes", image
    name = str(getattr(image, "name", "an open file"))
    if image.seekable():
        image.seek(0)
    data = image.read()
    if not isinstance(data, bytes):
        raise ValueError(f"{name} is open in text mode; open images with mode 'rb'")
    return name, data


def as_array(image: Any) -> np.ndarray | None:
    """The array of an array or tensor; None for other objects."""
    is_array = hasattr(image, "__array__") and not isinstance(image, Image.Image)
    return np.asarray(image) if is_array else None


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """uint8 `[H, W]`, `[H, W, 3]` or `[H, W, 4]` of an array as `open_input` takes it."""
    shape = list(array.shape)
    if array.ndim not in (2, 3) or 0 in shape or (array.ndim == 3 and shape[2] not in (1, 3, 4)):
        hint = ""
        if array.ndim == 3 and shape[0] in (1, 3, 4):
            hint = "; the channels are the first axis: pass `array.transpose(1, 2, 0)`"
        raise ValueError(
            f"got an array {array.dtype} {shape} as image; expected [height, width], or [height, width, channels] with "
            f"1, 3 (RGB) or 4 (RGBA) channels{hint}"
        )
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # also false for NaN
            raise ValueError(
                f"got an array {array.dtype} {shape} as image with values from {low:g} to {high:g}; expected floats "
                "from 0 to 1, or uint8 from 0 to 255 (`array.astype('uint8')`)"
            )
        array = np.rint(array * 255.0).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"got an array {array.dtype} {shape} as image; expected uint8 from 0 to 255, or floats from 0 to 1"
        )
    return array[..., 0] if array.ndim == 3 and shape[2] == 1 else array
