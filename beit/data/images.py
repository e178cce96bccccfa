"""Open any picture a data set may hold as 8-bit RGB, or say why not."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps

# The formats data sets come in. Pillow knows some forty more; each is a decoder an attacker could reach.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_PIXELS = 178_956_970  # where Pillow itself refuses: twice its Image.MAX_IMAGE_PIXELS
FULL_SIZE = "full_size"  # in `info` of what `open_image` returns: (width, height) before scaled decoding
DIVISORS = (8, 4, 2, 1)  # at which a JPEG can be decoded smaller

Size = tuple[int, int]  # width, height in pixels

# What Pillow's decoders raise on damaged files; OSError includes "truncated", "unidentified", "no such file".
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    struct.error,
    zlib.error,
)
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_SCALABLE = frozenset({"JPEG", "MPO"})  # MPO: a JPEG with others behind it, as phones write
_ON_SIDE = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_WIDE_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class OpenOptions(TypedDict, total=False):
    """Keyword arguments of `open_image`."""

    exif_orientation: bool
    max_pixels: int


class ImageError(ValueError):
    """A file that is not a readable image: `path`, and `reason` in words."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # these args rebuild it after pickling, in the parent of a worker
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def open_image(
    path: str | Path,
    *,
    exif_orientation: bool = False,
    max_pixels: int = MAX_PIXELS,
    keep_mode: bool = False,
    divisor: Callable[[Size], int] | None = None,
) -> Image.Image:
    """The decoded picture in mode RGB; of an animation or a multi-page file, the first frame.

    Args:
        path: an image in one of `FORMATS`; the content decides, not the extension.
        exif_orientation: turn and mirror as the EXIF tag says. The published protocols do not.
        max_pixels: width * height above which a picture is refused from its header, before decoding.
        keep_mode: leave the pixels in the file's own mode (label maps).
        divisor: from the size of the picture to one of `DIVISORS`: a JPEG is decoded that many times smaller (sides
            rounded up), which saves most of the time; other formats are not. `info[FULL_SIZE]` tells the whole size.

    Raises:
        ImageError: the file is missing, empty, no image, damaged, too large, or holds numbers without a
            declared range (see `to_rgb`).
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(
                    path, f"{width} x {height} pixels are more than DATA.MAX_PIXELS={max_pixels} allows"
                )
            full_size = _load(image, exif_orientation, divisor)
            decoded = image if keep_mode else to_rgb(image)
            decoded.info[FULL_SIZE] = full_size
            return decoded
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        reason = f"more pixels than Pillow's own limit and DATA.MAX_PIXELS={max_pixels} allow ({error})"
        raise ImageError(path, reason) from error
    except _DECODE_ERRORS as error:
        raise ImageError(path, _reason(path, error)) from error


def _load(image: Image.Image, exif_orientation: bool, divisor: Callable[[Size], int] | None) -> Size:
    """Decode in place, see `open_image`; the whole size."""
    full_size = None
    if divisor is not None and image.format in _SCALABLE:
        is_on_side = exif_orientation and image.getexif().get(ExifTags.Base.Orientation) in _ON_SIDE
        full_size = image.size[::-1] if is_on_side else image.size
        scale = divisor(full_size)
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
    image.load()
    if exif_orientation:
        ImageOps.exif_transpose(image, in_place=True)
    return full_size or image.size


def to_rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB. An RGB picture is returned as it is.

    Gray is repeated; CMYK, YCbCr and the like are converted by Pillow; 16-bit gray is divided by 257 and
    rounded; float gray must lie in [0, 1].

    Deviation: transparency (RGBA, LA, palette or color key) is composited on white. The official loader
    drops the alpha channel, which shows whatever color the editor left behind.

    Raises:
        ValueError: an integer picture outside [0, 65535] or a float picture outside [0, 1], whose range
            nobody declared, or a mode Pillow cannot convert.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _WIDE_MODES:
        return _gray(_from_integers(np.asarray(image)))
    if image.mode == "F":
        return _gray(_from_floats(np.asarray(image)))
    if image.mode == "P" or image.mode in _ALPHA_MODES or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_integers(values: np.ndarray) -> np.ndarray:
    """16 bits to 8: 65535 = 255 * 257, so the division is exact at both ends."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"integer pixels from {low} to {high}; expected 16 bits, 0 to 65535")
    return (values.astype(np.uint32) + 128) // 257


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also false for NaN
        raise ValueError(f"float pixels from {low:g} to {high:g}; expected 0 to 1")
    return np.rint(values * 255)


def _gray(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _reason(path: str | Path, error: BaseException) -> str:
    """What is wrong with the file, from its first bytes where Pillow only says "cannot identify"."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    try:
        with Path(path).open("rb") as file:
            head = file.read(256)
    except (OSError, ValueError):
        head = b"unreadable"
    start = head.lstrip().lower()
    if not head:
        return "an empty file (0 bytes)"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not an image: the download went wrong"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not an image: run `git lfs pull`"
    if not any(head):
        return "begins with zeros only: the file was not written to its end"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no image in one of the formats {', '.join(FORMATS)}, or one with a damaged header"
    return f"cannot be decoded: {error or type(error).__name__}"
