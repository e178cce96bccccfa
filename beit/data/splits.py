"""The training and the validation images of a run, in any of the supported layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from yacs.config import CfgNode

from beit.data.archive_folders import is_folder, locate, sub_folders
from beit.data.cifar import read_cifar
from beit.data.class_folders import (
    SPLITS,
    are_numbers,
    class_folder_names,
    has_splits,
    matching_class_names,
    read_class_folders,
    require_split,
    split_folder,
)
from beit.data.csv_file import read_csv_file
from beit.data.folders import shortened_list
from beit.data.image_list import ImageList
from beit.data.list_file import read_class_names, read_list_file
from beit.data.parquet import read_parquet
from beit.data.random_split import take_split
from beit.data.shards import find_shards
from beit.data.unlabeled import read_flat
from beit.data.webdataset import read_webdataset
from beit.metadata.class_names import parse_class_names
from beit.text_files import read_text

Split = Literal["train", "val"]

_LAYOUTS = (
    "The layouts: `-dataset imagenet2012` reads train_list.txt and val_list.txt (lines `relative/path label`) in "
    "DATA.DATA_PATH, `-dataset folder` reads train/<class>/<image> and val/<class>/<image> in it (or valid/, validation/), "
    "or <class>/<image>, of which it holds out a part for validation; `-dataset flat`, for pre-training, reads every image "
    "below it, or below train/ and val/ in it; in these three train.tar or train.zip can stand for train/. `-dataset csv` reads train.csv and val.csv. `-dataset webdataset` reads tars, `-dataset parquet` parquet files with `train` and "
    "`val` or `validation` in their names, `-dataset cifar10` and `cifar100` the published files."
)


def open_split(config: CfgNode, split: Split) -> ImageList:
    """The labeled images of one split of DATA.DATASET in DATA.DATA_PATH.

    Class names come from the folders or from the data files, or from an optional `class_names.txt` beside list files and
    tars.

    Raises:
        FileNotFoundError: the data folder, the list file, the class folders or the data files do not exist.
        ValueError: bad data (`read_list_file`, `read_class_folders`, `read_webdataset`, `read_parquet`, `read_cifar`),
            classes that differ between the splits, or another number of classes than MODEL.NUM_CLASSES (with
            TEST.CLASS_SUBSET "val" may have any number).
    """
    is_subset = split == "val" and config.TEST.CLASS_SUBSET
    return _open_labeled(config, split, None if is_subset else config.MODEL.NUM_CLASSES)


def count_classes(config: CfgNode) -> int:
    """The number of classes of the data: of its class folders or class names, or the largest label plus 1.

    Raises:
        FileNotFoundError, ValueError: as `open_split`; or labels that nothing names count from 1, or there is one class.
    """
    images = _open_labeled(config, "train", None)
    names_file = Path(config.DATA.DATA_PATH) / "class_names.txt"
    if images.class_names is not None:
        count = len(images.class_names)
    elif names_file.is_file():
        count = len(parse_class_names(read_text(names_file)))
    else:
        count = _count_labels(config, images)
    if count < 2:
        raise ValueError(
            f"DATA.DATA_PATH={config.DATA.DATA_PATH} has one class, and nothing can be told apart: add images of another "
            "class. If the classes are folders in the only class folder, name that folder as -data_path"
        )
    return count


def _count_labels(config: CfgNode, train: ImageList) -> int:
    """The largest label of both splits plus 1."""
    labels = [train.labels]
    with contextlib.suppress(FileNotFoundError):  # there need not be validation data
        labels.append(_open_labeled(config, "val", None).labels)
    values = np.concatenate([_used(part) for part in labels if part is not None])
    if values.min() == 1:
        raise ValueError(
            f"the labels in DATA.DATA_PATH={config.DATA.DATA_PATH} seem to count from 1 (1 to {values.max()}): subtract 1 "
            f"from each, or keep a class 0 without images by -opts MODEL.NUM_CLASSES {values.max() + 1}"
        )
    return int(values.max()) + 1


def _used(labels: np.ndarray) -> np.ndarray:
    """The class numbers that occur in labels `[len]` or `[len, K]`."""
    return np.flatnonzero(labels.any(0)) if labels.ndim == 2 else labels


def _open_labeled(config: CfgNode, split: Split, num_classes: int | None) -> ImageList:
    root, dataset = _root(config), config.DATA.DATASET
    multi_label = config.TASK == "multilabel"
    if multi_label and dataset not in ("imagenet2012", "csv"):
        raise ValueError(
            f"DATA.DATASET = {dataset} has one label for each image; TASK: multilabel reads lists with lines `path 3,7` "
            "(imagenet2012) or CSV files (csv)"
        )
    if dataset == "flat":
        raise ValueError(
            f"DATA.DATASET = flat has no labels, and TASK: {config.TASK} needs them: use a layout with labels. {_LAYOUTS}"
        )
    if dataset in _DATA_FILES:
        images = _DATA_FILES[dataset](root, split=split, num_classes=num_classes)
        if images is None:
            ending = {"webdataset": ".tar", "parquet": ".parquet"}[dataset]
            hint = (
                "; test is not used in a run: rename its files to val to evaluate on them"
                if split == "val" and find_shards(root, "test", ending)
                else ""
            )
            raise FileNotFoundError(f"{root} has no {dataset} files of {split}{hint}. {_LAYOUTS}")
        return images if images.class_names is not None else _named(images, root, num_classes)
    if dataset == "test_folder":
        return locate(_open_test_folder(root, split, num_classes))
    if dataset == "folder":
        return locate(_open_folder(root, split, num_classes))
    readers = {"imagenet2012": _open_list, "csv": _open_csv}
    if dataset not in readers:
        raise ValueError(f"DATA.DATASET = {dataset} is for TASK: segment. {_LAYOUTS}")
    return locate(readers[dataset](root, split, num_classes, multi_label=multi_label))


def open_unlabeled(config: CfgNode, split: Split) -> ImageList | None:
    """The images of one split without their labels, in any layout; None where there are no validation images.

    Raises:
        FileNotFoundError: the data folder does not exist, or the list file, the folder or the data files of the training
            images.
        ValueError: bad data, see `open_split` and `read_flat`.
    """
    root, dataset = _root(config), config.DATA.DATASET
    if dataset in _DATA_FILES:
        images = _DATA_FILES[dataset](root, split=split, num_classes=None, labeled=False)
        if images is None and split == "train":
            raise FileNotFoundError(f"{root} has no {dataset} files of train. {_LAYOUTS}")
        return images
    if dataset == "flat":
        flat = read_flat(root, split)
        return None if flat is None else locate(flat)
    lists = {"imagenet2012": (f"{split}_list.txt", _open_list), "csv": (f"{split}.csv", _open_csv)}
    if dataset in lists:
        name, read = lists[dataset]
        if split == "val" and not (root / name).exists():
            return None
        listed = read(root, split, None, labeled=False)
    else:
        if split == "val" and split_folder(root, split) is None:
            return None
        listed = read_class_folders(_split(root, split))
    return replace(locate(listed), labels=None, class_names=None)


_DATA_FILES: dict[str, Callable[..., ImageList | None]] = {
    "webdataset": read_webdataset,
    "parquet": read_parquet,
    "cifar10": partial(read_cifar, name="cifar10"),
    "cifar100": partial(read_cifar, name="cifar100"),
}
"""Readers of data sets whose files hold many images each."""


def _root(config: CfgNode) -> Path:
    root = Path(config.DATA.DATA_PATH)
    if not (root.is_dir() if config.DATA.DATASET in _DATA_FILES else is_folder(root)):
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FileNotFoundError(f"DATA.DATA_PATH={root} {what}. {_LAYOUTS}")
    return root


def _open_list(root: Path, split: str, num_classes: int | None, **labels: bool) -> ImageList:
    list_file = root / f"{split}_list.txt"
    if not list_file.is_file():
        what = "is a folder" if list_file.is_dir() else "does not exist"
        folders = [name for name in sub_folders(root) if name != list_file.name]
        if folders:
            what += f". If the folders {shortened_list(folders)} are the classes, or train and val, say `-dataset folder`"
        raise FileNotFoundError(f"{list_file} {what}. {_LAYOUTS}")
    images = read_list_file(list_file, root, num_classes, **labels)
    return _named(images, root, num_classes)


def _open_csv(root: Path, split: str, num_classes: int | None, **labels: bool) -> ImageList:
    images = read_csv_file(root, split, num_classes, **labels)
    if images is None:
        raise FileNotFoundError(f"{root / split}.csv does not exist. {_LAYOUTS}")
    return images


def _named(images: ImageList, root: Path, num_classes: int | None) -> ImageList:
    """The images with the class names of `class_names.txt`, if there is one."""
    names_file = root / "class_names.txt"
    if num_classes is None or not names_file.is_file():
        return images
    return replace(images, class_names=read_class_names(names_file, num_classes))


def _open_folder(root: Path, split: str, num_classes: int | None) -> ImageList:
    is_bare = not any(split_folder(root, name) is not None for name in SPLITS)
    if is_bare and sub_folders(root) and not has_splits(root):
        images = take_split(read_class_folders(root), split)
        assert images.class_names is not None  # those of the folders
        _check_count(root, images.class_names, num_classes)
        if (root / "train_list.txt").is_file():
            note = f"{root / 'train_list.txt'} is not read; `-dataset=imagenet2012` reads the lists"
            images = replace(images, notes=(*images.notes, note))
        return images
    folder = _split(root, split)
    # For an evaluation alone the training images need not be there.
    both = all(split_folder(root, name) is not None for name in ("train", "val"))
    class_names = matching_class_names(root) if both else class_folder_names(folder)
    _check_count(folder, class_names, num_classes)
    return read_class_folders(folder, class_names, may_lack_images=split == "val")


def _open_test_folder(root: Path, split: str, num_classes: int | None) -> ImageList:
    """Class folders for evaluation. If all names are numbers, as in ImageNet-V2, they are the labels."""
    if split == "train":
        raise ValueError("DATA.DATASET = test_folder is for evaluation (-eval); train with -dataset=folder")
    images = read_class_folders(root, may_lack_images=True)
    assert images.labels is not None and images.class_names is not None  # those of the folders
    if not are_numbers(images.class_names):
        return images
    numbers = np.array([int(name) for name in images.class_names], np.int64)
    if num_classes is not None and numbers.max() >= num_classes:
        raise ValueError(
            f"{root / images.class_names[-1]}: the class folders are numbers, and class {numbers.max()} is not one of "
            f"MODEL.NUM_CLASSES={num_classes}, which count from 0"
        )
    return replace(images, labels=numbers[images.labels], class_names=None)


def _check_count(folder: Path, class_names: Sequence[str], num_classes: int | None) -> None:
    if num_classes is not None and len(class_names) != num_classes:
        raise ValueError(
            f"{folder} has {len(class_names)} class folders for MODEL.NUM_CLASSES={num_classes}; "
            f"say `-opts MODEL.NUM_CLASSES {len(class_names)}`, or to evaluate on some of the classes of a model "
            "`-opts TEST.CLASS_SUBSET True`"
        )


def _split(root: Path, split: str) -> Path:
    try:
        return require_split(root, split)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}. {_LAYOUTS}") from None
