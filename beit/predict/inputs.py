"""From what people name or hold to pictures: files, folders, patterns, Pillow pictures, arrays. Floor 3."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from beit.data.class_folders import EXTENSIONS, image_names
from beit.data.images import ImageError, open_image, to_rgb

ImageInput = str | Path | Image.Image | np.ndarray

_MAGIC = frozenset("*?[")


def find_images(source: str | Path) -> list[Path]:
    """The picture files that a path means, sorted: itself, those of a folder at any depth, those a pattern fits.

    Raises:
        FileNotFoundError: there is no such file or folder, or nothing fits the pattern.
        ValueError: the folder holds no pictures.
    """
    path = Path(source)
    if path.is_dir():
        found = [path / name for name in image_names(path)]
        if not found:
            raise ValueError(
                f"{path} holds no pictures ({' '.join(sorted(EXTENSIONS))}), in no sub-folder either"
            )
        return found
    if path.exists():
        return [path]
    if _MAGIC & set(str(source)):
        names = sorted(name for name in glob.glob(str(source), recursive=True))  # noqa: PTH207 (absolute patterns)
        matches = [Path(name) for name in names if Path(name).is_file()]
        if matches:
            return matches
        raise FileNotFoundError(f"no file fits the pattern {source}")
    raise FileNotFoundError(f"{path} does not exist; name a picture, a folder of pictures, or a pattern")


def list_inputs(images: ImageInput | Sequence[ImageInput]) -> tuple[list[ImageInput], bool]:
    """Single pictures in order, and whether one picture was given rather than several.

    Folders and patterns count as several, whatever they hold.

    Raises:
        FileNotFoundError, ValueError: as `find_images`; an empty list.
    """
    if isinstance(images, str | Path):
        found = find_images(images)
        return list(found), Path(images).is_file()
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim <= 3):
        return [images], True
    pictures: list[ImageInput] = []
    for image in images:
        pictures += find_images(image) if isinstance(image, str | Path) else [image]
    if not pictures:
        raise ValueError("no pictures were given")
    return pictures, False


def open_input(picture: ImageInput, *, exif_orientation: bool = False) -> Image.Image:
    """The picture in mode RGB: a file (`beit.data.images`), a Pillow picture, or an array uint8 `[H, W, 3]` or `[H, W]`.

    Arrays are RGB. (OpenCV's are BGR: pass `array[..., ::-1]`.)

    Raises:
        ImageError: the file cannot be read.
        ValueError: the array is no picture.
    """
    if isinstance(picture, str | Path):
        return open_image(picture, exif_orientation=exif_orientation)
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
        raise ValueError(
            f"a picture is an array {picture.dtype} {list(picture.shape)}; expected uint8 [height, width, 3] in RGB "
            "order, 0 to 255"
        )
    return to_rgb(Image.fromarray(picture))


__all__ = ["ImageError", "ImageInput", "find_images", "list_inputs", "open_input"]
