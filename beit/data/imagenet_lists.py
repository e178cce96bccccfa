"""ImageNet as it is distributed: where its images are, and the labels of a validation folder without class folders.

Sources: https://image-net.org (ILSVRC2012_devkit_t12: readme.txt), https://www.kaggle.com/c/imagenet-object-localization-challenge.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from beit.data.archive_folders import KAGGLE, KAGGLE_ZIP, read_file, sub_folders, walk
from beit.data.class_folders import class_folder_names, split_folder
from beit.data.folders import shortened_list
from beit.data.image_list import ImageList
from beit.data.images import EXTENSIONS
from beit.imagenet_classes import synsets
from beit.text_files import read_bytes

_SOLUTION = "LOC_val_solution.csv"
_DEVKIT = "ILSVRC2012_devkit_t12"
_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_MAX_BYTES = 2**26  # of a file of the development kit; the largest has 2 MB
_SYNSET = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def image_root(folder: Path) -> Path:
    """The folder with train and val: that of Kaggle's tree in `folder` if there is one, otherwise `folder`."""
    parts = KAGGLE.split("/")
    places = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((place for place in places if place.is_dir()), folder)


def read_imagenet_val(root: Path) -> ImageList | None:
    """The validation images with ImageNet's labels; None if they are not ImageNet's, or in class folders beside `train`.

    Two forms of `val`, or of an archive for it, are read: images without class folders, whose labels are in the development
    kit or in Kaggle's solution beside `val`; and folders of synsets where there is no `train`. A label is the position of
    the synset among the folders of `train` or, without `train`, among the 1000 classes of ImageNet-1k.

    Raises:
        ValueError: there is no ground truth for images of ImageNet, it does not have all images, its files are damaged, or
            it has classes that `train` lacks.
        OSError: a file cannot be read.
    """
    place, train = split_folder(root, "val"), split_folder(root, "train")
    if place is None:
        return None
    folders = sub_folders(place)
    if folders and (train is not None or not set(folders) <= set(synsets("imagenet-1k"))):
        return None
    order = class_folder_names(train) if train is not None else synsets("imagenet-1k")
    found = walk(place, EXTENSIONS)
    notes = found.notes(place)
    if folders:
        of_image = {name: name.split("/", 1)[0] for name in found.names}
    else:
        truth = _ground_truth(root)
        if truth is None:
            if all(_SYNSET.fullmatch(name) for name in order) and any(map(_NUMBER.match, found.names)):
                raise ValueError(
                    f"{place} has ImageNet's validation images without class folders, so their labels are needed: put "
                    f"{_DEVKIT}.tar.gz or Kaggle's {_SOLUTION} into {root}"
                )
            return None
        source, synset_of = truth
        of_image = {name: synset_of.pop(name.split(".", 1)[0], "") for name in found.names}
        unknown = [name for name, synset in of_image.items() if not synset]
        if unknown:
            raise ValueError(
                f"{source} has no label of {len(unknown)} images in {place}: {shortened_list(unknown)}"
            )
        if synset_of:
            count = len(synset_of) + len(of_image)
            missing = shortened_list(sorted(synset_of))
            notes += (f"{place}: {len(synset_of)} of {count} images of {source} are missing: {missing}",)
    label_of = {synset: label for label, synset in enumerate(order)}
    lacking = sorted(set(of_image.values()) - set(label_of))
    if lacking:
        raise ValueError(
            f"{place} has images of {len(lacking)} classes that {train} lacks: {shortened_list(lacking)}"
        )
    labels = [label_of[synset] for synset in of_image.values()]
    return ImageList.from_names(place, found.names, labels, order, notes)


def published_order(names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The 21,841 classes of the published ImageNet-22k heads if `names` has all of them, otherwise None."""
    order = synsets("imagenet-21k")
    return order if set(order) <= set(names) else None


def _ground_truth(root: Path) -> tuple[str, dict[str, str]] | None:
    """The name of the file with the labels, and the synset of each validation image by its name without the ending."""
    # Kaggle's solution is beside the folder ILSVRC; the root is ILSVRC/Data/CLS-LOC.
    above = [root.absolute().parents[2]] if root.absolute().as_posix().endswith(f"/{KAGGLE}") else []
    for folder in (root, *above, root / KAGGLE_ZIP):
        data = read_file(folder / _SOLUTION)
        if data is not None:
            return _SOLUTION, _read_solution(folder / _SOLUTION, data)
    for kit in _devkits(root):
        return _GROUND_TRUTH, _read_devkit(kit)
    return None


def _read_solution(path: Path, data: bytes) -> dict[str, str]:
    """Lines `ILSVRC2012_val_00048981,n03995372 85 1 499 272`: image, then synset and box of each object."""
    try:
        rows = list(csv.reader(io.StringIO(data.decode())))
    except (ValueError, csv.Error):
        rows = []
    truth = {row[0]: row[1].split(" ", 1)[0] for row in rows[1:] if len(row) == 2}
    bad = [name for name, synset in truth.items() if not _SYNSET.fullmatch(synset)]
    if len(truth) != len(rows) - 1 or not truth or bad:
        raise ValueError(
            f"{path} is damaged; expected lines `ImageId,PredictionString` as Kaggle distributes them"
        )
    return truth


def _devkits(root: Path) -> Iterator[Path]:
    """The archive of the development kit, and folders with its `data`."""
    for folder in (root / f"{_DEVKIT}.tar.gz", root / _DEVKIT, root / "devkit", root):
        if folder.is_file() or (folder / "data" / _GROUND_TRUTH).is_file():
            yield folder


def _read_devkit(kit: Path) -> dict[str, str]:
    if kit.is_dir():
        numbers, meta = (read_bytes(kit / "data" / name, _MAX_BYTES) for name in (_GROUND_TRUTH, "meta.mat"))
    else:
        try:
            with tarfile.open(kit) as tar:
                files = [tar.extractfile(f"{_DEVKIT}/data/{name}") for name in (_GROUND_TRUTH, "meta.mat")]
                numbers, meta = (file.read(_MAX_BYTES) if file is not None else b"" for file in files)
        except (tarfile.TarError, KeyError, EOFError, OSError) as error:
            raise ValueError(f"{kit} is damaged or incomplete: {error}; download it again") from error
    synset_of = _read_synsets(kit, meta)
    try:
        truth = [synset_of[int(number)] for number in numbers.split()]
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{kit}: {_GROUND_TRUTH} has the unknown class {error}; download it again"
        ) from error
    return {f"ILSVRC2012_val_{number:08d}": synset for number, synset in enumerate(truth, start=1)}


def _read_synsets(kit: Path, meta: bytes) -> dict[int, str]:
    """The synset of each ILSVRC2012_ID in `meta.mat`."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(
            f'the labels in {kit} are in MATLAB\'s format, which needs scipy: pip install "beit-paddle[imagenet]", or '
            f"pip install scipy; or use Kaggle's {_SOLUTION}"
        ) from error
    try:
        table = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        return {
            int(number): str(synset)
            for number, synset in zip(table["ILSVRC2012_ID"].tolist(), table["WNID"].tolist(), strict=True)
        }
    except (ValueError, TypeError, KeyError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{kit}: meta.mat is damaged ({error}); download it again") from error
