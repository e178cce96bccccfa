"""CIFAR-10 and CIFAR-100 in the files of https://www.cs.toronto.edu/~kriz/cifar.html: Python or binary version.

The images are 32 x 32 pixels. Each process that reads images holds those of a split, 150 MB, in memory.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from beit.containers.arrays import Budget
from beit.containers.pickles import Unpickler
from beit.data.image_list import ImageList
from beit.text_files import read_bytes

_MAX_BYTES = 2**28  # of a file; the largest has 153 MB
_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class Version(NamedTuple):
    """Where a version of a data set is and what its files are called."""

    folder: str
    archive: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    names: str
    labels: str  # key of the labels in the pickles
    label_names: str  # key of their names
    label_bytes: int  # before the pixels of a record of the binary version; the last one is the label

    @property
    def is_binary(self) -> bool:
        """Whether it is the binary version, not that of Python pickles."""
        return self.train[0].endswith(".bin")


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
VERSIONS = {
    "cifar10": (
        Version(
            "cifar-10-batches-py", "cifar-10-python.tar.gz",
            _BATCHES, ("test_batch",), "batches.meta", "labels", "label_names", 1,
        ),
        Version(
            "cifar-10-batches-bin", "cifar-10-binary.tar.gz",
            tuple(f"{name}.bin" for name in _BATCHES), ("test_batch.bin",), "batches.meta.txt", "", "", 1,
        ),
    ),
    "cifar100": (
        Version(
            "cifar-100-python", "cifar-100-python.tar.gz",
            ("train",), ("test",), "meta", "fine_labels", "fine_label_names", 2,
        ),
        Version(
            "cifar-100-binary", "cifar-100-binary.tar.gz",
            ("train.bin",), ("test.bin",), "fine_label_names.txt", "", "", 2,
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class CifarImages:
    """The images of one split, in the order of the published files.

    Args:
        place: the folder of the version, or its archive.
        version: of the data set.
        files: of the split.
        count: of images.
    """

    place: Path
    version: Version
    files: tuple[str, ...]
    count: int

    def has(self, index: int) -> bool:
        """Whether the split has an image with this index."""
        return 0 <= index < self.count

    def read(self, index: int) -> bytes:
        """One image in the format PPM.

        Raises:
            ValueError, OSError: see `read_cifar`.
        """
        pixels, _ = _read_batches(self.place, self.version, self.files)
        return b"P6 %d %d 255\n" % (_SIDE, _SIDE) + pixels[index].transpose(1, 2, 0).tobytes()


def read_cifar(
    root: Path, name: str, split: str, num_classes: int | None, *, labeled: bool = True
) -> ImageList:
    """The images of one split: the training files for "train", the test file for "val".

    Args:
        root: holds the folder or the archive of one version, or is that folder.
        name: "cifar10" or "cifar100", which has its 100 fine labels.
        split: "train" or "val".
        num_classes: of the model; None accepts any number.
        labeled: keep the labels.

    Raises:
        FileNotFoundError: `root` has no version of the data set.
        ValueError: it has several, a file is damaged, or the model has another number of classes.
        OSError: a file cannot be read.
    """
    place, version = _find(root, name)
    files = version.train if split == "train" else version.val
    _, labels = _read_batches(place, version, files)
    class_names = _read_names(place, version)
    if labeled and num_classes is not None and num_classes != len(class_names):
        raise ValueError(
            f"{name} has {len(class_names)} classes for MODEL.NUM_CLASSES={num_classes}; say "
            f"`-opts MODEL.NUM_CLASSES {len(class_names)}`"
        )
    if int(labels.max()) >= len(class_names):
        raise ValueError(f"{place}: label {labels.max()} for {len(class_names)} classes; download it again")
    names = [f"{split}/{index:05d}" for index in range(len(labels))]
    images = ImageList.from_names(place, names, labels if labeled else None, class_names if labeled else None)
    return replace(images, source=CifarImages(place, version, files, len(labels)))


def _find(root: Path, name: str) -> tuple[Path, Version]:
    found: dict[str, tuple[Path, Version]] = {}
    for version in VERSIONS[name]:
        here = root if (root / version.train[0]).is_file() and (root / version.names).is_file() else None
        places = (here, root / version.folder, root / version.archive)
        place = next((place for place in places if place is not None and place.exists()), None)
        if place is not None:
            found[version.folder] = place, version
    if len(found) > 1:
        raise ValueError(f"{root} has {' and '.join(found)}, two versions of {name}; keep one of them")
    if not found:
        expected = ", ".join(f"{version.folder}/ or {version.archive}" for version in VERSIONS[name])
        raise FileNotFoundError(f"{root} has no {name}; expected {expected}")
    return next(iter(found.values()))


@lru_cache(maxsize=2)
def _read_batches(place: Path, version: Version, files: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `[images, 3, 32, 32]` and labels int64 `[images]` of some files."""
    pixels: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    values: Any
    numbers: Any
    for file, data in zip(files, _read_files(place, version, files), strict=True):
        path = place / file
        if version.is_binary:
            record = version.label_bytes + _PIXELS
            if not data or len(data) % record:
                raise ValueError(f"{path} has {len(data)} bytes, no multiple of {record}; download it again")
            table = np.frombuffer(data, np.uint8).reshape(-1, record)
            values, numbers = table[:, version.label_bytes :], table[:, version.label_bytes - 1]
        else:
            content = _unpickle(path, data)
            values, numbers = content.get("data"), content.get(version.labels)
            is_sound = isinstance(values, np.ndarray) and isinstance(numbers, list) and len(numbers) > 0
            if not is_sound or values.dtype != np.uint8 or values.shape != (len(numbers), _PIXELS):
                raise ValueError(
                    f"{path}: expected `data` uint8 [images, {_PIXELS}] and a list `{version.labels}` of as many "
                    "numbers; download it again"
                )
        pixels.append(values.reshape(-1, 3, _SIDE, _SIDE))
        labels.append(np.asarray(numbers, np.int64))
    return np.concatenate(pixels), np.concatenate(labels)


def _read_names(place: Path, version: Version) -> tuple[str, ...]:
    [data] = _read_files(place, version, (version.names,))
    if version.is_binary:
        return tuple(line.strip() for line in data.decode().split("\n") if line.strip())
    return tuple(_unpickle(place / version.names, data).get(version.label_names, ()))


def _read_files(place: Path, version: Version, files: Sequence[str]) -> list[bytes]:
    if place.is_dir():
        return [read_bytes(place / file, _MAX_BYTES) for file in files]
    try:
        with tarfile.open(place, "r:gz") as tar:
            return [_read_member(tar, f"{version.folder}/{file}") for file in files]
    except (tarfile.TarError, EOFError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"{place} is damaged or incomplete: {error}; download it again") from error


def _read_member(tar: tarfile.TarFile, name: str) -> bytes:
    info = tar.getmember(name)
    content = tar.extractfile(info)
    if content is None or info.size > _MAX_BYTES:
        raise ValueError(f"{name} is not a file or has {info.size} bytes")
    return content.read()


def _unpickle(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = Unpickler(io.BytesIO(data), len(data), Budget(len(data))).read().value
    except (ValueError, IndexError, KeyError, TypeError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}; download it again") from error
    return content if isinstance(content, dict) else {}
