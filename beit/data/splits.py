"""The training and the validation images of a run, in any of the supported folder layouts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from yacs.config import CfgNode

from beit.data.class_folders import (
    class_folder_names,
    matching_class_names,
    read_class_folders,
    require_split,
    split_folder,
)
from beit.data.image_list import ImageList
from beit.data.list_file import read_class_names, read_list_file
from beit.data.unlabeled import read_flat

_LAYOUTS = (
    "Three layouts are understood: `-dataset imagenet2012` reads train_list.txt and val_list.txt (lines "
    "`relative/path label`) in DATA.DATA_PATH; `-dataset folder` reads train/<class>/<image> and "
    "val/<class>/<image> in it (or valid/, validation/); `-dataset flat`, for pre-training, reads every image below it, "
    "or below train/ and val/ in it."
)


def open_split(config: CfgNode, split: Literal["train", "val"]) -> ImageList:
    """The labeled images of one split of DATA.DATASET in DATA.DATA_PATH.

    Class names come from the folders, or from an optional `class_names.txt` beside the list files.

    Raises:
        FileNotFoundError: the data folder, the list file or the class folders do not exist.
        ValueError: a bad list (`read_list_file`), folders without classes or images (`read_class_folders`),
            classes that differ between the splits, or another number of classes than MODEL.NUM_CLASSES.
    """
    root = _root(config)
    if config.DATA.DATASET == "flat":
        raise ValueError(
            f"DATA.DATASET = flat has no labels, and TASK: {config.TASK} needs them: use imagenet2012 or folder"
        )
    readers = {"imagenet2012": _open_list, "folder": _open_folder}
    if config.DATA.DATASET not in readers:
        raise ValueError(f"DATA.DATASET = {config.DATA.DATASET} is for TASK: segment. {_LAYOUTS}")
    return readers[config.DATA.DATASET](root, split, config.MODEL.NUM_CLASSES)


def open_unlabeled(config: CfgNode, split: Literal["train", "val"]) -> ImageList | None:
    """The images of one split without their labels, in any layout; None where there are no validation images.

    Raises:
        FileNotFoundError: the data folder does not exist, or the list file or folder of the training images.
        ValueError: a bad list, or folders without images (`read_list_file`, `read_class_folders`, `read_flat`).
    """
    root = _root(config)
    if config.DATA.DATASET == "flat":
        return read_flat(root, split)
    is_list = config.DATA.DATASET == "imagenet2012"
    place = root / f"{split}_list.txt" if is_list else split_folder(root, split)
    if split == "val" and (place is None or not place.exists()):
        return None
    images = _open_list(root, split, None) if is_list else read_class_folders(_split(root, split))
    return replace(images, labels=None, class_names=None)


def _root(config: CfgNode) -> Path:
    root = Path(config.DATA.DATA_PATH)
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"DATA.DATA_PATH={root} {what}. {_LAYOUTS}")
    return root


def _open_list(root: Path, split: str, num_classes: int | None) -> ImageList:
    list_file = root / f"{split}_list.txt"
    if not list_file.is_file():
        what = "is a folder" if list_file.is_dir() else "does not exist"
        raise FileNotFoundError(f"{list_file} {what}. {_LAYOUTS}")
    images = read_list_file(list_file, root, num_classes)
    names_file = root / "class_names.txt"
    if num_classes is None or not names_file.is_file():
        return images
    class_names = read_class_names(names_file, num_classes)
    return replace(images, class_names=class_names)


def _open_folder(root: Path, split: str, num_classes: int) -> ImageList:
    folder = _split(root, split)
    # For an evaluation alone the training images need not be there.
    both = all(split_folder(root, name) is not None for name in ("train", "val"))
    class_names = matching_class_names(root) if both else class_folder_names(folder)
    if len(class_names) != num_classes:
        raise ValueError(
            f"{folder} has {len(class_names)} class folders for MODEL.NUM_CLASSES={num_classes}; "
            f"say `-opts MODEL.NUM_CLASSES {len(class_names)}`"
        )
    return read_class_folders(folder, class_names, may_lack_images=split == "val")


def _split(root: Path, split: str) -> Path:
    try:
        return require_split(root, split)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. {_LAYOUTS}") from None
