"""List files for trees of class folders, with a random split into training and validation where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beit.data.archive_folders import name_in_lists, sub_folders
from beit.data.class_folders import (
    class_folder_names,
    has_splits,
    matching_class_names,
    read_class_folders,
    require_split,
    split_folder,
)
from beit.data.image_list import ImageList
from beit.data.imagenet_lists import image_root, published_order, read_imagenet_val
from beit.data.list_file import format_line, write_lines
from beit.data.random_split import SEED, VAL_SHARE, split_at_random
from beit.files import write_text
from beit.metadata.class_names import format_class_names

_CLASS_NAMES = "class_names.txt"


@dataclass(frozen=True)
class Lists:
    """What `make_lists` wrote.

    Args:
        folder: of the lists, which is the data folder of a run.
        counts: images of each list.
        class_names: in the order of the labels.
        notes: sentences on images that were left out.
    """

    folder: Path
    counts: dict[str, int]
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def make_lists(folder: Path, *, val: float = VAL_SHARE, seed: int = SEED) -> Lists:
    """Write `train_list.txt`, `val_list.txt` and `class_names.txt` into the folder of the images: all or none.

    Folders `train` and `val` (or `valid`, `validation`), or archives for them, are kept as the splits. Otherwise each
    class is split at random (`split_at_random`), those of `train` if there is such a folder; `test` is never listed. The
    label of a class is its place in `class_folder_names`.

    ImageNet is taken as it is distributed (`read_imagenet_val`): a `val` without class folders, Kaggle's tree, a `val`
    alone, which gets no training list. A folder with all 21,841 classes of the published ImageNet-22k heads gets their
    labels.

    Args:
        folder: with the class folders `<class>/<image>` or `<split>/<class>/<image>`; or one of the forms of ImageNet.
        val: share of each class for validation, rounded; at least one image of a class that has two.
        seed: of the random split.

    Raises:
        FileExistsError: one of the files exists already.
        FileNotFoundError: `folder` does not exist.
        ValueError: there are no class folders, or a single one with the classes in it, a class has no training images, a
            name cannot be written, `val` is not in (0, 1), or the folders could be splits as well as classes.
        OSError: the folder cannot be written, or a folder in it cannot be read.
    """
    if folder.is_file():
        raise FileNotFoundError(
            f"{folder} is a file; lists are written beside the images: put an archive into a folder of its own, as "
            f"train{folder.suffix}, and name that folder"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected {folder}/<class>/<image>")
    folder = image_root(folder)
    files = {split: folder / f"{split}_list.txt" for split in ("train", "val")}
    existing = [file.name for file in (*files.values(), folder / _CLASS_NAMES) if file.exists()]
    if existing:
        raise FileExistsError(f"{folder} already has {', '.join(existing)}; remove them to make new ones")
    if not 0 < val < 1:
        raise ValueError(f"--val {val}: expected a share between 0 and 1, such as 0.2")
    lists, lines = _read(folder, val, seed)
    names = format_class_names(lists.class_names)  # refuses names before anything is written
    try:
        for split, split_lines in lines.items():
            write_lines(files[split], split_lines)
        write_text(folder / _CLASS_NAMES, names)
    except BaseException:  # a full disk, or Ctrl-C
        for file in files.values():
            file.unlink(missing_ok=True)
        raise
    return lists


def _read(folder: Path, val: float, seed: int) -> tuple[Lists, dict[str, list[str]]]:
    """The facts to return, and the lines of each list."""
    held_out = read_imagenet_val(folder)
    train = split_folder(folder, "train") if held_out is not None or has_splits(folder) else folder
    notes: tuple[str, ...] = ()
    if train is None:
        assert held_out is not None  # `has_splits` means that there is a training split, or archives
        images, lines = held_out, {"val": _lines(folder, held_out)}
    else:
        if held_out is None and train != folder and split_folder(folder, "val") is not None:
            names = matching_class_names(folder)
            held_out = read_class_folders(require_split(folder, "val"), names, may_lack_images=True)
        images, notes = _read_train(train)
        if held_out is None:
            lines = _split_lines(folder, images, val, seed)
        else:
            notes += held_out.notes
            lines = {"train": _lines(folder, images), "val": _lines(folder, held_out)}
    if train != folder and split_folder(folder, "test") is not None:
        notes += (f"{folder / 'test'} is in no list; a run neither trains nor evaluates on it",)
    assert images.class_names is not None  # those of the folders
    counts = {split: len(split_lines) for split, split_lines in lines.items()}
    return Lists(folder, counts, images.class_names, (*images.notes, *notes)), lines


def _read_train(folder: Path) -> tuple[ImageList, tuple[str, ...]]:
    """The images of class folders, and notes on their classes."""
    names = class_folder_names(folder)
    if len(names) == 1 and sub_folders(folder / names[0]):
        raise ValueError(
            f"{folder} has one class folder, {names[0]}, with folders in it. If these are the classes, say "
            f"`make-lists {folder / names[0]}`; one class cannot be trained"
        )
    order = published_order(names)
    extra = sorted(set(names) - set(order)) if order is not None else []
    notes = (f"{folder}: no published head has an output for {', '.join(extra)}; left out",) if extra else ()
    return read_class_folders(folder, order), notes


def _lines(folder: Path, images: ImageList) -> list[str]:
    """The lines of all images."""
    assert images.labels is not None
    prefix = "" if images.root == folder else f"{name_in_lists(images.root)}/"
    return [
        format_line(folder, f"{prefix}{images.name(index)}", label)
        for index, label in enumerate(images.labels.tolist())
    ]


def _split_lines(folder: Path, images: ImageList, val: float, seed: int) -> dict[str, list[str]]:
    """The lines of all images, each class split at random."""
    lines = _lines(folder, images)
    return {
        split: [lines[index] for index in indices]
        for split, indices in split_at_random(images, val, seed).items()
    }
