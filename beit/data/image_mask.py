"""Images with label maps for segmentation: pairs of files, class names, colors.

Shapes: H, W of one image; K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from yacs.config import CfgNode

from beit.data import ade20k
from beit.data.folders import shortened_list, walk_files
from beit.data.image_list import ImageList
from beit.data.images import EXTENSIONS, MAX_PIXELS, FileError, open_image
from beit.data.list_file import read_class_names
from beit.figures import index_color
from beit.files import write_text
from beit.text_files import read_text

IGNORE = 255
"""Label of ignored pixels after reading, whatever value the files use."""

Color = tuple[int, int, int]

_FOLDERS = {
    "ade20k": ade20k.FOLDERS,
    "image_mask": {"train": ("images/train", "masks/train"), "val": ("images/val", "masks/val")},
}
_MASK_EXTENSIONS = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif"})
_LAYOUTS = (
    "Two layouts are understood: `-dataset ade20k` reads images/training, annotations/training, images/validation and "
    "annotations/validation in DATA.DATA_PATH; `-dataset image_mask` reads images/train, masks/train, images/val and "
    "masks/val. A mask is a one-channel PNG with the class number of each pixel, of the same name as its image"
)


class MaskError(FileError):
    """A wrong label map. It is no `ImageError`, because training must not skip it."""


@dataclass(frozen=True)
class MaskReader:
    """Reads label maps: files with the class number of each pixel.

    Args:
        num_classes: K.
        ignore_label: value of ignored pixels in the files.
        reduce_zero_label: ignore pixels of value 0 too; value v is then class v - 1.
        max_pixels: see `ImageFile`.
        order: the class that each class of the files becomes; None for the same.
        exif_orientation: turn a label map by its own EXIF tag, as its image by that of the image.
    """

    num_classes: int
    ignore_label: int = 255
    reduce_zero_label: bool = False
    max_pixels: int = MAX_PIXELS
    order: tuple[int, ...] | None = None
    exif_orientation: bool = False

    def __call__(self, path: Path, size: tuple[int, int] | None) -> np.ndarray:
        """Classes from 0 to K - 1 and `IGNORE`, uint8 `[H, W]`.

        Args:
            path: of the label map.
            size: (width, height) of its image, pixels; None accepts any.

        Raises:
            ImageError: the file cannot be read.
            MaskError: it is not a label map, has another size than its image, or values beyond the classes.
        """
        image = open_image(
            path, max_pixels=self.max_pixels, keep_mode=True, exif_orientation=self.exif_orientation
        )
        values = np.asarray(image)
        if values.ndim != 2 or values.dtype.kind not in "bui":
            raise MaskError(
                path,
                f"an image of mode {image.mode}, expected one channel with the class number of each pixel "
                "(mode L or P); translate colors into class numbers first",
            )
        if size is not None and image.size != size:
            hint = ""
            if image.size == size[::-1]:
                hint = (
                    f"; if the image has an EXIF orientation, DATA.EXIF_ORIENTATION {not self.exif_orientation} makes "
                    "the two alike"
                )
            raise MaskError(
                path, f"{image.size[0]} x {image.size[1]} pixels, its image has {size[0]} x {size[1]}{hint}"
            )
        return self._labels(path, values.astype(np.int64))

    def _labels(self, path: Path, values: np.ndarray) -> np.ndarray:
        ignored = values == self.ignore_label
        first = 1 if self.reduce_zero_label else 0
        if self.reduce_zero_label:
            ignored |= values == 0
        labels = values - first
        wrong = ~ignored & ((labels < 0) | (labels >= self.num_classes))
        if wrong.any():
            found = ", ".join(map(str, np.unique(values[wrong])[:5]))
            last = self.num_classes - 1 + first
            hint = "" if first else "; if 0 means no class in these masks, set DATA.REDUCE_ZERO_LABEL True"
            raise MaskError(
                path,
                f"value {found} in {int(wrong.sum())} pixels; MODEL.NUM_CLASSES={self.num_classes} allows {first} to "
                f"{last}, and {self.ignore_label} for ignored pixels{hint}",
            )
        labels = np.where(ignored, IGNORE, labels).astype(np.uint8)
        if self.order is None:
            return labels
        return np.array([*self.order, *range(self.num_classes, IGNORE + 1)], np.uint8)[labels]


class ImageMasks(NamedTuple):
    """Images, and their label maps in the same order."""

    images: ImageList
    masks: ImageList


def open_image_masks(config: CfgNode, split: Literal["train", "val"]) -> ImageMasks:
    """The pairs of one split of DATA.DATASET in DATA.DATA_PATH, sorted by name.

    Raises:
        FileNotFoundError: the data folder or one of the split's folders does not exist, or images have no mask.
        ValueError: DATA.DATASET has no masks, there are no images, two files have the same name but for the ending, or
            class names or colors do not match MODEL.NUM_CLASSES.
        OSError: see `walk_files`.
    """
    root = Path(config.DATA.DATA_PATH)
    if config.DATA.DATASET not in _FOLDERS:
        raise ValueError(f"DATA.DATASET={config.DATA.DATASET} has no masks. {_LAYOUTS}")
    inside = root / "ADEChallengeData2016"
    if config.DATA.DATASET == "ade20k" and inside.is_dir():  # the folder in the published archive
        root = inside
    images, masks = (root / folder for folder in _FOLDERS[config.DATA.DATASET][split])
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder. {_LAYOUTS}")
    class_names, _ = class_names_and_palette(config)
    return _pair(root, images, masks, class_names)


def class_names_and_palette(
    config: CfgNode, folder: Path | None = None, colors: tuple[Color, ...] = ()
) -> tuple[tuple[str, ...] | None, tuple[Color, ...]]:
    """Names and colors of the classes.

    They come from the files `class_names.txt` and `palette.txt` (lines `red green blue`) where these exist. Otherwise
    ADE20K has its own; other data sets have no names, and the given colors or those of `even_palette`.

    Args:
        config: the keys DATA.* and MODEL.NUM_CLASSES.
        folder: of the files; None for DATA.DATA_PATH.
        colors: that the weights state, if they do.

    Raises:
        ValueError: a file does not have MODEL.NUM_CLASSES entries, has a name twice, or a line that is not a color.
    """
    root, num_classes = folder or Path(config.DATA.DATA_PATH), config.MODEL.NUM_CLASSES
    is_ade = config.DATA.DATASET == "ade20k" and num_classes == len(ade20k.CLASS_NAMES)
    names = ade20k.CLASS_NAMES if is_ade else None
    palette = colors or (ade20k.PALETTE if is_ade else even_palette(num_classes))
    if (root / "class_names.txt").is_file():
        names = read_class_names(root / "class_names.txt", num_classes)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"{root / 'class_names.txt'} names two classes {twice[0]!r}; results are reported by name"
            )
    if (root / "palette.txt").is_file():
        palette = read_palette(root / "palette.txt", num_classes)
    return names, palette


def read_palette(file: Path, num_classes: int) -> tuple[Color, ...]:
    """Read a file with one line `red green blue` (0 to 255) for each class.

    Raises:
        ValueError: another number of lines, or a line that is not a color.
    """
    colors: list[Color] = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        if len(words) != 3 or not all(
            word.isdecimal() and len(word) <= 3 and int(word) < 256 for word in words
        ):
            raise ValueError(f"{file} line {number}: {line[:80]!r}; expected three numbers from 0 to 255")
        colors.append((int(words[0]), int(words[1]), int(words[2])))
    if len(colors) != num_classes:
        raise ValueError(f"{file} has {len(colors)} colors for MODEL.NUM_CLASSES={num_classes}")
    return tuple(colors)


def write_palette(file: Path, palette: Sequence[Color]) -> None:
    """Write a file for `read_palette`."""
    write_text(file, "".join(f"{red} {green} {blue}\n" for red, green, blue in palette))


def even_palette(num_classes: int) -> tuple[Color, ...]:
    """Colors that differ strongly between neighboring classes."""
    return tuple(index_color(k) for k in range(num_classes))


def _pair(
    root: Path,
    images: Path,
    masks: Path,
    class_names: tuple[str, ...] | None,
) -> ImageMasks:
    found = walk_files(images, EXTENSIONS)
    files = _by_stem(images, found.names)
    mask_files = _by_stem(masks, walk_files(masks, _MASK_EXTENSIONS).names)
    if not files:
        raise ValueError(f"{images} has no images ({' '.join(sorted(EXTENSIONS))})")
    missing = [name for name in files if name not in mask_files]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(files)} images in {images} have no mask in {masks} "
            f"(one of {' '.join(sorted(_MASK_EXTENSIONS))}): {shortened_list(missing)}"
        )
    unused = [name for name in mask_files if name not in files]
    notes = [f"{masks}: {len(unused)} mask(s) without an image: {shortened_list(unused)}"] if unused else []
    stems = sorted(files)
    names = [
        [os.path.relpath(folder / group[stem], root) for stem in stems]
        for folder, group in ((images, files), (masks, mask_files))
    ]
    return ImageMasks(
        ImageList.from_names(root, names[0], class_names=class_names, notes=(*found.notes(images), *notes)),
        ImageList.from_names(root, names[1]),
    )


def _by_stem(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Files by their name without its ending.

    Raises:
        ValueError: two files differ in their endings only.
    """
    files: dict[str, str] = {}
    for name in names:
        stem = os.path.splitext(name)[0]  # noqa: PTH122
        if stem in files:
            raise ValueError(
                f"{folder} has {files[stem]} and {name}; images and masks are paired by name, so remove one of them"
            )
        files[stem] = name
    return files
