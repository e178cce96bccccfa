"""Images from what users pass: files, folders, glob patterns, Pillow images, arrays."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from beit.data.folders import walk_files
from beit.data.images import EXTENSIONS, MAX_PIXELS, open_image, to_rgb

ImageInput = str | Path | Image.Image | np.ndarray

_WILDCARDS = frozenset("*?[")


def find_images(source: str | Path) -> list[Path]:
    """The image files of a path, sorted: a file itself, the images of a folder at any depth, the matches of a pattern.

    Raises:
        FileNotFoundError: there is no such file or folder, or nothing matches the pattern.
        ValueError: the folder holds no images.
        OSError: see `walk_files`.
    """
    path = Path(source)
    if path.is_dir():
        found = walk_files(path, EXTENSIONS)
        if not found.names:
            raise ValueError(f"{path} and its sub-folders hold no images ({' '.join(sorted(EXTENSIONS))})")
        found.left_out.pop(
            ".txt", None
        )  # list files and class names, which `make-lists` writes into such a folder
        for note in found.notes(path):
            warnings.warn(note, stacklevel=2)
        return [path / name for name in found.names]
    if path.exists():
        return [path]
    if _WILDCARDS & set(str(source)):
        names = sorted(glob.glob(str(source), recursive=True))  # noqa: PTH207 (absolute patterns)
        matches = [Path(name) for name in names if Path(name).is_file()]
        if matches:
            return matches
        raise FileNotFoundError(f"no file matches the pattern {source}")
    raise FileNotFoundError(f"{path} does not exist; name an image, a folder of images, or a pattern")


def list_inputs(images: ImageInput | Sequence[ImageInput]) -> tuple[list[ImageInput], bool]:
    """Single images in order, and whether one image was passed rather than several.

    Folders and patterns count as several images, whatever they hold.

    Raises:
        FileNotFoundError, ValueError: as `find_images`, or the list is empty.
    """
    if isinstance(images, str | Path):
        found = find_images(images)
        return list(found), Path(images).is_file()
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim <= 3):
        return [images], True
    inputs: list[ImageInput] = []
    for image in images:
        inputs += find_images(image) if isinstance(image, str | Path) else [image]
    if not inputs:
        raise ValueError("no images were given")
    return inputs, False


def open_input(
    image: ImageInput, *, exif_orientation: bool = False, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """The image in mode RGB.

    Args:
        image: a file, a Pillow image, or an array uint8 `[H, W, 3]` or `[H, W]`. Arrays are RGB; those of OpenCV are
            BGR: pass `array[..., ::-1]`.
        exif_orientation: turn and mirror a file as its EXIF tag says.
        max_pixels: width x height above which a file is refused before it is decoded.

    Raises:
        ImageError: the file cannot be read.
        ValueError: the array is not an image.
    """
    if isinstance(image, str | Path):
        return open_image(image, exif_orientation=exif_orientation, max_pixels=max_pixels)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (3,), (4,)):
        raise ValueError(
            f"got an array {image.dtype} {list(image.shape)} as image; expected uint8 [height, width, 3] in RGB order, "
            "0 to 255"
        )
    return to_rgb(Image.fromarray(image))
