"""Data sets in which the folder of an image is its class: `<class>/<image>`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from beit.data.archive_folders import find_folder, is_folder, refuse_compressed, sub_folders, walk
from beit.data.folders import FoundFiles, shortened_list
from beit.data.image_list import ImageList
from beit.data.images import EXTENSIONS

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Split to the names that its folder may have. No run trains on "test"."""
_SPLIT_NAMES = frozenset(name for names in SPLITS.values() for name in names)
_LIKE_SPLITS = _SPLIT_NAMES | {"training", "testing", "dev", "eval", "evaluation"}


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split, or the archive in its place, under any of the names in `SPLITS`; None if there is none.

    Raises:
        ValueError: there are several.
    """
    found = [place for name in SPLITS[split] if (place := find_folder(root, name)) is not None]
    if len(found) > 1:
        raise ValueError(
            f"{root} has {' and '.join(path.name for path in found)}, two folders for one split; keep one of them"
        )
    return found[0] if found else None


def has_splits(root: Path) -> bool:
    """Whether the folders in `root` are splits, not classes.

    They are splits if there is `train`, and beside it a validation folder or only folders with the names of splits. An
    archive for a split counts as its folder.

    Raises:
        ValueError: `train` and others could be both, or all folders are called like splits in another spelling.
    """
    names = sub_folders(root)
    has_train, has_val = (split_folder(root, split) is not None for split in ("train", "val"))
    if has_train and (has_val or set(names) <= _SPLIT_NAMES):
        return True
    if names and all(name.casefold() in _LIKE_SPLITS for name in names):
        raise ValueError(
            f"{root} has the folders {', '.join(names)}, which look like splits; call them train, val and test"
        )
    if "train" in names and sub_folders(root / "train"):
        others = shortened_list([name for name in names if name != "train"])
        raise ValueError(
            f"{root} has the folder train with sub-folders, and {others}: either move the classes {others} elsewhere, "
            "or add a folder val if train is the training split"
        )
    return False


def class_folder_names(folder: Path) -> tuple[str, ...]:
    """Names of the class folders in the order of their labels. Hidden folders are ignored.

    The order is that of the text, or of the numbers if all names are whole numbers.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no class folders.
    """
    if not is_folder(folder):
        raise FileNotFoundError(f"{folder} is not a folder; expected {folder}/<class>/<image>")
    names = sub_folders(folder)
    if not names:
        packed = sorted(path.name for path in folder.glob("*.tar")) if folder.is_dir() else []
        hint = f". It has {shortened_list(packed)}: unpack each into a folder of its name" if packed else ""
        if folder.is_dir() and next(folder.glob("ILSVRC2012_val_*"), None) is not None:
            hint = ". `python -m beit make-lists` makes list files for ImageNet's validation images"
        raise ValueError(f"{folder} has no class folders; expected {folder}/<class>/<image>{hint}")
    return in_label_order(names)


def in_label_order(names: Collection[str]) -> tuple[str, ...]:
    """Names of classes in the order of their labels: that of the numbers if all are whole numbers, else of the text."""
    return tuple(sorted(names, key=lambda name: (int(name), name)) if are_numbers(names) else sorted(names))


def are_numbers(names: Collection[str]) -> bool:
    """Whether all names of classes are whole numbers."""
    return all(name.isascii() and name.isdigit() for name in names)


def read_class_folders(
    folder: Path, class_names: Sequence[str] | None = None, *, may_lack_images: bool = False
) -> ImageList:
    """The images in `<folder>/<class>/` and its sub-folders, sorted by name.

    Images are the files with one of `EXTENSIONS`, in any case. Hidden files and folders are ignored. The notes of the list
    name all other files that are left out.

    Args:
        folder: the images of one split.
        class_names: in the order of the labels; None for the names of the folders (`class_folder_names`).
        may_lack_images: accept classes without images, as validation does; a note names them.

    Raises:
        FileNotFoundError: `folder` does not exist.
        ValueError: it has no class folders or no images, a class has none, or a class folder is a link to another.
        OSError: see `walk_files`.
    """
    order = class_folder_names(folder) if class_names is None else tuple(class_names)
    label_of = {name: label for label, name in enumerate(order)}
    found = walk(folder, EXTENSIONS)
    names = [name for name in found.names if name.split("/", 1)[0] in label_of]
    labels = [label_of[name.split("/", 1)[0]] for name in names]
    filled = set(labels)
    empty = [name for name, label in label_of.items() if label not in filled]
    _check_empty(folder, found, empty, may_lack_images=may_lack_images and bool(names))
    return ImageList.from_names(folder, names, labels, order, _notes(folder, found, order, empty))


def matching_class_names(root: Path) -> tuple[str, ...]:
    """The class names of the training folder, which are also those of validation.

    Raises:
        FileNotFoundError: there is no training or no validation folder.
        ValueError: one of them has no class folders, or validation has classes that training lacks.
    """
    train_folder, val_folder = (require_split(root, split) for split in ("train", "val"))
    train, val = class_folder_names(train_folder), class_folder_names(val_folder)
    unknown = sorted(set(val) - set(train))
    if unknown:
        missing = sorted(set(train) - set(val))
        hint = f"; only in {train_folder.name}: {shortened_list(missing)}" if missing else ""
        raise ValueError(
            f"{root}: {train_folder.name} and {val_folder.name} have different classes "
            f"(only in {val_folder.name}: {shortened_list(unknown)}{hint})"
        )
    return train


def require_split(root: Path, split: str) -> Path:
    """The folder of a split, see `split_folder`.

    Raises:
        FileNotFoundError: there is none.
    """
    folder = split_folder(root, split)
    if folder is not None:
        return folder
    for name in SPLITS[split]:
        refuse_compressed(root, name)
    if not sub_folders(root):
        raise FileNotFoundError(f"{root} has no class folders; expected {root}/<class>/<image>")
    others = " or ".join(str(root / name) for name in SPLITS[split])
    hint = ""
    if split == "val" and split_folder(root, "train") is not None:
        hint = f". `python -m beit make-lists {shlex.quote(str(root))}` holds out a part of train/"
        if split_folder(root, "test") is not None:
            hint = f". test/ is not used in a run:{hint[1:]}, or rename test/ to val/ to evaluate on it"
    raise FileNotFoundError(f"{others} is not a folder{hint}")


def _check_empty(folder: Path, found: FoundFiles, empty: list[str], *, may_lack_images: bool) -> None:
    links = [name for name in empty if name in found.repeated]
    if links:
        target = os.path.realpath(folder / links[0])
        raise ValueError(
            f"{folder / links[0]} is a link to {target}, whose images are in the data set anyway: a class twice; remove "
            "the link"
        )
    if empty and not may_lack_images:
        raise ValueError(
            f"{folder / empty[0]} has no images ({' '.join(sorted(EXTENSIONS))}); fill or remove the folder"
        )


def _notes(folder: Path, found: FoundFiles, order: Sequence[str], empty: list[str]) -> tuple[str, ...]:
    notes = list(found.notes(folder))
    classes = set(order)
    outside = [name for name in found.names if name.split("/", 1)[0] not in classes]
    if outside:
        notes.append(
            f"{folder}: {len(outside)} image(s) left out, in no class folder: {shortened_list(outside)}"
        )
    if empty:
        notes.append(
            f"{folder}: {len(empty)} of {len(order)} classes have no image, metrics do not cover them: "
            f"{shortened_list(empty)}"
        )
    if are_numbers(order) and list(order) != sorted(order):
        notes.append(
            f"{folder}: the class folders are numbers and sorted as numbers: label {len(order) - 1} is {order[-1]}"
        )
    return tuple(notes)
