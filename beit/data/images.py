"""Decode image files as 8-bit RGB, with an error that says what is wrong with a file that cannot be decoded."""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from PIL import ExifTags, Image, ImageOps, features

try:
    import pillow_heif  # of the extra `heif`: Pillow has no decoder for the photos of iPhones
except ImportError:
    pillow_heif = None

from beit.data.decoding_limits import refuse_costly_decoding
from beit.printable import printable

# The usual formats of data sets. Pillow has about forty more decoders; a hostile file must not reach them.
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "HEIF": (".heic", ".heif", ".hif"),
}
_OPTIONAL = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}  # Pillow may be built without them


_ADVICE = {
    "HEIF": 'install the extra heif (pip install "beit-paddle[heif]"), or convert them to JPEG',
    "AVIF": "install Pillow 11.3 or newer, or convert them to JPEG",
}


def _is_supported(name: str) -> bool:
    if name == "HEIF":
        return pillow_heif is not None
    known = (*features.modules, *features.codecs)
    return name not in _OPTIONAL or (_OPTIONAL[name] in known and bool(features.check(_OPTIONAL[name])))


FORMATS = tuple(name for name in _ENDINGS if _is_supported(name))
EXTENSIONS = frozenset(ending for name in FORMATS for ending in _ENDINGS[name])
"""Endings of the files in `FORMATS`, in lower case."""
UNREAD = {ending: _ADVICE[name] for name in _ADVICE if name not in FORMATS for ending in _ENDINGS[name]}
"""Endings of images that this installation cannot decode, and what to do."""
if pillow_heif is not None:
    pillow_heif.register_heif_opener()
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
"""Bytes 8 to 11 of a file, after `ftyp` -> its format."""
MAX_PIXELS = 178_956_970  # Pillow's own limit: twice its Image.MAX_IMAGE_PIXELS
DRAFT_SCALES = (8, 4, 2, 1)  # factors by which a JPEG can be decoded smaller

Size = tuple[int, int]  # width, height in pixels

# The exceptions of Pillow's decoders on damaged files. OSError covers truncated, unidentified and missing files.
# MemoryError is not one of them: the file may be intact.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    RuntimeError,  # of the AVIF decoder
    struct.error,
    zlib.error,
)
_ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_JPEG_FORMATS = frozenset({"JPEG", "MPO"})  # MPO: several JPEGs in one file, written by phones
_ON_SIDE = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_WIDE_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class OpenOptions(TypedDict, total=False):
    """Keyword arguments of `open_image` and `ImageFile` that a config sets."""

    exif_orientation: bool
    max_pixels: int


class FileError(ValueError):
    """A file that cannot be used: its `path`, and the `reason` in words."""

    def __init__(self, path: str | Path, reason: str) -> None:
        super().__init__(str(path), reason)  # unpickling passes these to the class again
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ImageError(FileError):
    """A file that is not a readable image."""


class ImageFile:
    """An image file whose header has been read; its pixels are decoded on demand. Use it in a `with` block.

    Args:
        path: an image in one of `FORMATS`, recognized by its content; the file name extension is ignored.
        data: content of the file, if it is part of a larger one; `path` is then its name in messages.
        exif_orientation: rotate and mirror as the EXIF tag says. The published protocols do not.
        max_pixels: an image with a larger width * height is refused before it is decoded.
        keep_mode: keep the file's own mode instead of converting to RGB (for label maps).

    Raises:
        ImageError: the file is missing, not a regular file, empty, not an image, damaged, too large, beyond a limit of
            `decoding_limits`, or holds numbers without a declared range (see `to_rgb`). `size` and `decode` raise it too.
        MemoryError: the machine has not enough memory to decode it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        data: bytes | None = None,
        exif_orientation: bool = False,
        max_pixels: int = MAX_PIXELS,
        keep_mode: bool = False,
    ) -> None:
        self._path = path
        self._data = data
        self._exif_orientation = exif_orientation
        self._max_pixels = max_pixels
        self._keep_mode = keep_mode
        self._decoded: Image.Image | None = None
        with self._image_errors():
            self._source = _RegularFile(path) if data is None else io.BytesIO(data)
            try:
                self._image = Image.open(self._source, formats=FORMATS)
                self._check_pixels()
                refuse_costly_decoding(self._image)
                self._jpeg_size = self._read_jpeg_size()
            except BaseException:
                self._source.close()
                raise

    def __enter__(self) -> ImageFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._source.close()

    @property
    def format(self) -> str:
        """Pillow's name of the file format, such as "JPEG" or "TIFF"."""
        return self._image.format or ""

    @property
    def size(self) -> Size:
        """Width and height in pixels at full resolution, after `exif_orientation`.

        A JPEG is not decoded for it; other formats are, because they cannot be decoded smaller anyway.
        """
        return self._jpeg_size or self.decode().size

    @property
    def orientation(self) -> int:
        """The EXIF orientation, 1 to 8; 1 is upright and what a file without the tag has. Read it before `decode`."""
        with self._image_errors():
            value = self._image.getexif().get(ExifTags.Base.Orientation, 1)
        return value if value in range(1, 9) else 1

    def decode(self, draft_scale: int = 1) -> Image.Image:
        """The pixels in mode RGB; of an animation or a multi-page file, the first frame. Decodes once.

        Args:
            draft_scale: one of `DRAFT_SCALES`. The sides of a JPEG are divided by it and rounded up while it is
                decoded, which saves most of the time. A JPEG with a smaller side is reduced less; other formats are
                decoded at full resolution.
        """
        if self._decoded is None:
            with self._image_errors():
                image = self._image
                if draft_scale > 1:
                    width, height = image.size
                    image.draft(None, (max(width // draft_scale, 1), max(height // draft_scale, 1)))
                image.load()
                if self._exif_orientation:
                    ImageOps.exif_transpose(image, in_place=True)
                self._decoded = image if self._keep_mode else to_rgb(image)
        return self._decoded

    def _check_pixels(self) -> None:
        width, height = self._image.size
        if width * height > self._max_pixels:
            raise ImageError(
                self._path,
                f"{width} x {height} pixels are more than DATA.MAX_PIXELS={self._max_pixels} allows",
            )

    def _read_jpeg_size(self) -> Size | None:
        if self._image.format not in _JPEG_FORMATS:
            return None
        is_on_side = self._exif_orientation and (
            self._image.getexif().get(ExifTags.Base.Orientation) in _ON_SIDE
        )
        return self._image.size[::-1] if is_on_side else self._image.size

    @contextlib.contextmanager
    def _image_errors(self) -> Iterator[None]:
        """Turn what Pillow raises on bad files into `ImageError`."""
        try:
            yield
        except ImageError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ImageError(
                self._path,
                f"more pixels than Pillow's own limit and DATA.MAX_PIXELS={self._max_pixels} allow ({error})",
            ) from error
        except _DECODE_ERRORS as error:
            if str(error).startswith("out of memory"):  # what Pillow makes of a decoder's failed allocation
                raise MemoryError(f"decoding {self._path}") from error
            raise ImageError(self._path, _reason(self._path, self._data, error)) from error


def open_image(
    path: str | Path,
    *,
    data: bytes | None = None,
    exif_orientation: bool = False,
    max_pixels: int = MAX_PIXELS,
    keep_mode: bool = False,
) -> Image.Image:
    """The decoded image in mode RGB. Arguments and errors are those of `ImageFile`."""
    with ImageFile(
        path, data=data, exif_orientation=exif_orientation, max_pixels=max_pixels, keep_mode=keep_mode
    ) as file:
        return file.decode()


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB. An RGB image is returned as it is.

    Gray is repeated; Pillow converts CMYK, YCbCr and similar modes; 16-bit gray is divided by 257 and
    rounded; float gray must lie in [0, 1].

    Deviation: transparency (RGBA, LA, palette or color key) is composited on white. The official loader
    drops the alpha channel, which shows the undefined colors of transparent pixels.

    Raises:
        ValueError: integer pixels outside [0, 65535] or float pixels outside [0, 1], whose range is not
            declared, or a mode that Pillow cannot convert.
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
    """16 bits to 8. 65535 = 255 * 257, so 0 maps to 0 and 65535 to 255."""
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


class _RegularFile(io.BufferedReader):
    """An open file for decoders.

    Raises:
        OSError: there is no such file, or it is another kind of file. Opening a named pipe would wait for its writer
            without end, and signals could not interrupt it.
    """

    def __init__(self, path: str | Path) -> None:
        found = Path(path).stat()
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(path)
        if not stat.S_ISREG(found.st_mode):
            raise OSError("a named pipe, socket or device, not a regular file")
        super().__init__(io.FileIO(path))
        self._size = found.st_size

    def read(self, size: int | None = -1) -> bytes:
        """At most `size` bytes. Memory is taken for no more than the file has, whatever its header claims."""
        return super().read(size if size is None else min(size, self._size))


def _reason(path: str | Path, data: bytes | None, error: BaseException) -> str:
    """Why the file cannot be decoded, judged by its first bytes where Pillow only says "cannot identify"."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "a folder, not an image"
    try:
        with _RegularFile(path) if data is None else io.BytesIO(data) as file:
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
    name = _BRANDS.get(head[8:12], "") if head[4:8] == b"ftyp" else ""
    if name and name not in FORMATS:
        return f"this installation does not decode {name} images: {_ADVICE[name]}"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"no image in one of the formats {', '.join(FORMATS)}, or one with a damaged header"
    return f"cannot be decoded: {printable(' '.join(str(error).split())) or type(error).__name__}"
