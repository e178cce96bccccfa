"""The images of a data set with their labels and class names."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from beit.data.images import MAX_PIXELS, ImageError, ImageFile

_SAMPLE = 1000  # files of a list whose existence a run checks before it starts


class Source(Protocol):
    """Where the bytes of images come from that are not files of their own. It is pickled for each data worker."""

    def has(self, index: int, /) -> bool:
        """Whether there is an image of this place in the list."""

    def read(self, index: int, /) -> bytes:
        """The content of an image file.

        Raises:
            ValueError, OSError: it cannot be read; the message says why, without its name.
        """


@dataclass(frozen=True, eq=False)
class ImageList:
    """Names of images relative to `root`, with labels.

    All names are in one bytes object: a million Python strings would take 100 MB in every worker, and seconds to
    pickle.

    Args:
        root: folder the names are relative to.
        names: all names, concatenated, in the file system's encoding.
        offsets: start of each name in `names`, and the total length; `[len + 1]`.
        labels: class numbers, int64 `[len]`; of images with several labels whether they have a class, bool `[len, K]`; None
            for images without labels.
        class_names: name of each class; None where they are unknown.
        notes: sentences for the log, on what was left out and on how labels were found.
        source: where the bytes of the images come from; None if they are the files of these names.
    """

    root: Path
    names: bytes
    offsets: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    source: Source | None = None

    @classmethod
    def from_names(
        cls,
        root: Path,
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> ImageList:
        """Pack a list of names, and of labels."""
        encoded = [os.fsencode(name) for name in names]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return cls(
            root,
            b"".join(encoded),
            pack_offsets(lengths),
            None if labels is None else np.asarray(labels, np.int64),
            None if class_names is None else tuple(class_names),
            tuple(notes),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def name(self, index: int) -> str:
        """Name of one image, relative to `root`."""
        return os.fsdecode(self.names[int(self.offsets[index]) : int(self.offsets[index + 1])])

    def path(self, index: int) -> Path:
        """Path of one image, for messages also where it is part of a larger file: `train.tar/n01440764/x.JPEG`."""
        return self.root / self.name(index)

    def open(self, index: int, *, exif_orientation: bool = False, max_pixels: int = MAX_PIXELS) -> ImageFile:
        """One image; see `ImageFile` for the arguments.

        Raises:
            ImageError: it cannot be read.
        """
        data = None if self.source is None else self.read(index)
        return ImageFile(
            self.path(index), data=data, exif_orientation=exif_orientation, max_pixels=max_pixels
        )

    def read(self, index: int) -> bytes:
        """The bytes of one image file.

        Raises:
            ImageError: they cannot be read.
        """
        try:
            return self.path(index).read_bytes() if self.source is None else self.source.read(index)
        except (OSError, ValueError) as error:
            raise ImageError(self.path(index), str(error)) from error

    def fingerprint(self) -> str:
        """Digest of names, labels and their order, 16 hexadecimal digits. `root` does not matter."""
        digest = hashlib.sha256(self.names)
        digest.update(np.asarray(self.offsets, np.uint64).tobytes())
        if self.labels is not None:
            digest.update(self.labels.tobytes())
        return digest.hexdigest()[:16]

    def overlap(self, other: ImageList) -> int:
        """Number of images that both lists contain."""
        if self.root != other.root:
            return 0
        return len(set(other._encoded()).intersection(self._encoded()))

    def _encoded(self) -> Iterator[bytes]:
        ends = self.offsets.tolist()
        return (self.names[start:end] for start, end in itertools.pairwise(ends))


def pack_offsets(lengths: np.ndarray) -> np.ndarray:
    """Start of each name in the concatenation, and its total length: `[len + 1]`, uint32 if it is large enough.

    Args:
        lengths: of the names in bytes, `[len]`.
    """
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return offsets.astype(np.uint32 if offsets[-1] < 2**32 else np.uint64)


def check_files(images: ImageList, sample: int | None = _SAMPLE) -> list[Path]:
    """The listed files that do not exist, in the order of the list. No file is opened.

    Checking every file of ImageNet takes seconds on a local disk and minutes on a network drive. A sample of the
    list is enough to find a wrong folder or an incomplete copy.

    Args:
        images: the list.
        sample: number of files to check, spread evenly over the list; None checks all.
    """
    count = len(images) if sample is None else min(sample, len(images))
    indices = np.linspace(0, len(images) - 1, count).astype(np.int64)
    parts = np.array_split(indices, max(1, count // 1000))
    with ThreadPoolExecutor(16) as pool:  # the threads mostly wait for a network drive
        return [path for missing in pool.map(lambda part: _missing(images, part), parts) for path in missing]


def absent_classes(images: ImageList, num_classes: int) -> list[str]:
    """Names, or else numbers, of the classes that no image has; empty for images without labels.

    Args:
        images: the list.
        num_classes: of the model.
    """
    if images.labels is None:
        return []
    labels = images.labels.nonzero()[1] if images.labels.ndim == 2 else images.labels
    absent = np.setdiff1d(np.arange(num_classes), labels).tolist()
    names = images.class_names or ()
    return [names[label] if len(names) == num_classes else str(label) for label in absent]


def require_files(images: ImageList, tolerated: float) -> None:
    """Check a sample of the listed files with `check_files` before a long run starts.

    Args:
        images: the list.
        tolerated: share of the checked files that may be missing, within [0, 1].

    Raises:
        FileNotFoundError: more of them are missing.
    """
    missing = check_files(images)
    checked = min(len(images), _SAMPLE)
    if len(missing) > tolerated * checked:
        raise FileNotFoundError(
            f"{len(missing)} of {checked} listed images do not exist, first {missing[0]}; is DATA.DATA_PATH the "
            "folder the list is relative to, and was everything copied?"
        )


def _missing(images: ImageList, indices: np.ndarray) -> list[Path]:
    if images.source is not None:
        return [images.path(index) for index in indices.tolist() if not images.source.has(index)]
    root = str(images.root)
    names = map(images.name, indices.tolist())
    return [images.root / name for name in names if not os.path.isfile(f"{root}/{name}")]  # noqa: PTH113
