"""Single images from what users pass: files, folders, glob patterns, and all that `open_input` takes."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from beit.data.folders import walk_files
from beit.data.image_input import EXPECTED, ImageInput, as_array, is_content
from beit.data.images import EXTENSIONS

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
        for ending in (".txt", ".csv"):  # lists of images and class names beside them
            found.left_out.pop(ending, None)
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

    Folders and patterns count as several images, whatever they hold, and so does an array `[B, H, W, C]`.

    Raises:
        FileNotFoundError, ValueError: as `find_images`, the list is empty, or something else than images was passed.
    """
    if isinstance(images, str | Path):
        return list(find_images(images)), Path(images).is_file()
    if isinstance(images, Image.Image) or is_content(images):
        return [images], True
    array = as_array(images)
    if array is not None and array.ndim <= 3:
        return [array], True
    if array is None and not isinstance(images, Iterable):
        raise ValueError(f"got {type(images).__name__} as image; expected {EXPECTED}, or several of these")
    inputs: list[ImageInput] = []
    several: Iterable[ImageInput] = images if array is None else array  # type: ignore[assignment]
    for image in several:
        inputs += find_images(image) if isinstance(image, str | Path) else [image]
    if not inputs:
        raise ValueError("no images were given")
    return inputs, False
