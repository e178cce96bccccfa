"""Data sets in which the folder of an image is its class: `<class>/<image>`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from beit.data.image_list import ImageList
from beit.data.list_file import format_line, write_lines

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
SPLITS = ("train", "val")


def class_folder_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders, sorted; the index of a name is its label. Hidden folders are ignored.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no class folders.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected {folder}/<class>/<image>")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise ValueError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    return tuple(names)


def read_class_folders(folder: Path) -> ImageList:
    """The images in `<folder>/<class>/` and its sub-folders, sorted by class and name.

    Images are the files with one of `EXTENSIONS`, in any case. Hidden files and folders are ignored.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no class folders, or one of them has no images.
    """
    class_names = class_folder_names(folder)
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        found = image_names(folder, class_name)
        if not found:
            raise ValueError(
                f"{folder / class_name} has no images ({' '.join(sorted(EXTENSIONS))}); "
                "fill or remove the folder"
            )
        names += found
        labels += [label] * len(found)
    return ImageList.from_names(folder, names, labels, class_names)


def write_list_files(data_path: Path) -> list[Path]:
    """Write `train_list.txt`, `val_list.txt` and `class_names.txt` for folders `<split>/<class>/<image>`.

    Listing the folders of a large data set takes minutes on a network drive; reading the list files takes a second.
    Existing files are kept. If the folder is read-only, a warning is issued and nothing is written.

    Returns: the files written.

    Raises:
        FileNotFoundError: there is no `train` or no `val` folder.
        ValueError: see `read_class_folders`; the splits have different classes; or a name cannot be written in
            a list file (line break, not UTF-8).
    """
    class_names = matching_class_names(data_path)
    targets = {f"{split}_list.txt": split for split in SPLITS}
    missing = [name for name in (*targets, "class_names.txt") if not (data_path / name).exists()]
    if missing and not os.access(data_path, os.W_OK):
        warnings.warn(f"{data_path} is read-only: no list files written", stacklevel=2)
        return []
    for name in missing:
        lines = _list_lines(data_path, targets[name]) if name in targets else class_names
        write_lines(data_path / name, lines)
    return [data_path / name for name in missing]


def matching_class_names(data_path: Path) -> tuple[str, ...]:
    """The class names that `train` and `val` share.

    Raises:
        FileNotFoundError: there is no `train` or no `val` folder.
        ValueError: one of them has no class folders, or they have different classes.
    """
    train, val = (class_folder_names(data_path / split) for split in SPLITS)
    if train != val:
        only = {"train": sorted({*train} - {*val}), "val": sorted({*val} - {*train})}
        found = "; ".join(
            f"only in {split}: {', '.join(names[:5])}" for split, names in only.items() if names
        )
        raise ValueError(f"{data_path}: train and val have different classes ({found})")
    return train


def image_names(folder: Path, sub_folder: str = "") -> list[str]:
    """Names of the images in `folder` or in one of its sub-folders, at any depth: relative to `folder`, sorted."""
    names = []
    for parent, children, files in os.walk(folder / sub_folder, followlinks=True):
        children[:] = [child for child in children if not child.startswith(".")]
        below = os.path.relpath(parent, folder)
        prefix = "" if below == "." else f"{below}/"
        names += [
            f"{prefix}{file}"
            for file in files
            if os.path.splitext(file)[1].lower() in EXTENSIONS and not file.startswith(".")  # noqa: PTH122
        ]
    return sorted(names)


def _list_lines(data_path: Path, split: str) -> Iterable[str]:
    images = read_class_folders(data_path / split)
    assert images.labels is not None
    for index, label in enumerate(images.labels.tolist()):
        yield format_line(data_path, f"{split}/{images.name(index)}", label)
