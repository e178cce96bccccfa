"""Data sets without labels: all images in a folder and its sub-folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from beit.data.archive_folders import walk
from beit.data.class_folders import split_folder
from beit.data.image_list import ImageList
from beit.data.images import EXTENSIONS
from beit.data.list_file import MAX_LIST_BYTES
from beit.data.list_paths import relative_names
from beit.text_files import read_text

HOLDOUT = "val_images.txt"
"""File in the data folder that lists the validation images, one relative path per line."""


def read_flat(root: Path, split: Literal["train", "val"]) -> ImageList | None:
    """The images of one split, sorted by name; None where there are no validation images.

    If `root` has a folder `train`, or an archive for it and no other images, the splits are the images in `train/` and in
    `val/` (or `valid/`, `validation/`). Otherwise all images in `root` are for training, except those that
    `val_images.txt` lists for validation. Sub-folders of any depth are included, hidden files and folders are not.

    Raises:
        ValueError: there are no images, or `val_images.txt` is not UTF-8 or names an image that does not exist.
    """
    train = split_folder(root, "train")
    is_archive_beside_images = train is not None and train.is_file() and bool(walk(root, EXTENSIONS).names)
    if train is not None and not is_archive_beside_images:
        folder = split_folder(root, split)
        return None if folder is None else _read(folder)
    held_out = _read_holdout(root)
    if split == "val" and not held_out:
        return None
    images = _read(root)
    names = [images.name(index) for index in range(len(images))]
    missing = held_out - set(names)
    if missing:
        raise ValueError(
            f"{root / HOLDOUT}: {len(missing)} of {len(held_out)} lines name no image below {root}, e.g. "
            f"{min(missing)!r}; lines are relative paths, without labels"
        )
    kept = [name for name in names if (name in held_out) == (split == "val")]
    if not kept:
        raise ValueError(f"{root / HOLDOUT} holds out every image of {root}; nothing is left to train on")
    return ImageList.from_names(root, kept, notes=images.notes)


def _read_holdout(root: Path) -> set[str]:
    file = root / HOLDOUT
    if not file.is_file():
        return set()
    lines = read_text(file, MAX_LIST_BYTES).split("\n")
    names = [line.strip(" \t\r").removeprefix("./").encode() for line in lines if line.strip(" \t\r")]
    return {os.fsdecode(name) for name in relative_names(names, root)[0]}


def _read(folder: Path) -> ImageList:
    found = walk(folder, EXTENSIONS)
    if not found.names:
        raise ValueError(f"{folder} has no images ({' '.join(sorted(EXTENSIONS))}), in no sub-folder either")
    return ImageList.from_names(folder, found.names, notes=found.notes(folder))
