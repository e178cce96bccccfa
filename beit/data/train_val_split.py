"""List files for trees of class folders, with a random split into training and validation where there is none."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.data.class_folders import (
    has_splits,
    matching_class_names,
    read_class_folders,
    require_split,
    split_folder,
)
from beit.data.image_list import ImageList
from beit.data.list_file import format_line, write_lines

_CLASS_NAMES = "class_names.txt"


@dataclass(frozen=True)
class Lists:
    """What `make_lists` wrote: images of each split, class names, and sentences on what was left out."""

    counts: dict[str, int]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def make_lists(folder: Path, *, val: float = 0.2, seed: int = 0) -> Lists:
    """Write `train_list.txt`, `val_list.txt` and `class_names.txt` into `folder`: all three or none.

    Folders `train` and `val` (or `valid`, `validation`) are kept as the splits. Otherwise each class is split at random,
    those of `train` if there is such a folder; `test` is never listed. The split depends only on the name of the class,
    its number of images and `seed`, not on the other classes. Labels are the places of the names of the class folders
    in the order of `class_folder_names`.

    Args:
        folder: with the class folders `<class>/<image>` or `<split>/<class>/<image>`.
        val: share of each class for validation, rounded; at least one image of a class that has two.
        seed: of the random split.

    Raises:
        FileExistsError: one of the files exists already.
        FileNotFoundError: `folder` does not exist.
        ValueError: there are no class folders, a class has no training images, a name cannot be written, `val` is not
            in (0, 1), or the folders could be splits as well as classes.
        OSError: the folder cannot be written, or a folder in it cannot be read.
    """
    targets = {split: folder / f"{split}_list.txt" for split in ("train", "val")}
    existing = [file.name for file in (*targets.values(), folder / _CLASS_NAMES) if file.exists()]
    if existing:
        raise FileExistsError(f"{folder} already has {', '.join(existing)}; remove them to make new ones")
    if not 0 < val < 1:
        raise ValueError(f"--val {val}: expected a share between 0 and 1, such as 0.2")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected {folder}/<class>/<image>")
    notes: list[str] = []
    if not has_splits(folder):
        images = read_class_folders(folder)
        lines = _split_lines(folder, images, val, seed)
    elif split_folder(folder, "val") is None:
        images = read_class_folders(require_split(folder, "train"))
        lines = _split_lines(folder, images, val, seed)
    else:
        names = matching_class_names(folder)
        images = read_class_folders(require_split(folder, "train"), names)
        held_out = read_class_folders(require_split(folder, "val"), names, may_lack_images=True)
        notes += held_out.notes
        lines = {"train": _lines(folder, images), "val": _lines(folder, held_out)}
    if has_splits(folder) and split_folder(folder, "test") is not None:
        notes.append(f"{folder / 'test'} is in no list; a run neither trains nor evaluates on it")
    class_names = images.class_names
    assert class_names is not None  # those of the folders
    for split, file in targets.items():
        write_lines(file, lines[split])
    write_lines(folder / _CLASS_NAMES, class_names)
    return Lists({split: len(lines[split]) for split in targets}, class_names, (*images.notes, *notes))


def _lines(folder: Path, images: ImageList) -> list[str]:
    """The lines of all images."""
    assert images.labels is not None
    below = os.path.relpath(images.root, folder)
    prefix = "" if below == "." else f"{below}/"
    return [
        format_line(folder, f"{prefix}{images.name(index)}", label)
        for index, label in enumerate(images.labels.tolist())
    ]


def _split_lines(folder: Path, images: ImageList, val: float, seed: int) -> dict[str, list[str]]:
    """The lines of all images, each class split at random."""
    assert images.labels is not None and images.class_names is not None
    lines = _lines(folder, images)
    split: dict[str, list[str]] = {"train": [], "val": []}
    for label, name in enumerate(images.class_names):
        members = np.flatnonzero(images.labels == label).tolist()
        held_out = _held_out(len(members), val, np.random.default_rng([seed, len(members), *name.encode()]))
        for place, index in enumerate(members):
            split["val" if place in held_out else "train"].append(lines[index])
    return split


def _held_out(count: int, val: float, rng: np.random.Generator) -> set[int]:
    if count < 2:
        return set()
    held_out = min(max(round(val * count), 1), count - 1)
    return set(rng.choice(count, held_out, replace=False).tolist())
