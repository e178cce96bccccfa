"""Paths that lead into archives: `images.zip/train/daisy` is the folder `train/daisy` in `images.zip`.

An archive is read in place of a folder of its name: `train.tar` in place of `train`. ImageNet's archives, with their
distributed file names, are read in place of `train` and `val`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from beit.data.archives import ENDINGS, ENTRY, Archive, Members, read_archive
from beit.data.folders import FoundFiles, walk_files
from beit.data.image_list import ImageList
from beit.text_files import read_bytes

KAGGLE = "ILSVRC/Data/CLS-LOC"
"""Folder of the images in Kaggle's ImageNet, with train, val and test."""
KAGGLE_ZIP = "imagenet-object-localization-challenge.zip"
_OFFICIAL = {
    split: (f"ILSVRC2012_img_{split}.tar", f"{KAGGLE_ZIP}/{KAGGLE}/{split}") for split in ("train", "val")
}
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def inside(path: Path) -> tuple[Archive, str] | None:
    """The archive that a path leads into, and the beginning of the names of its members; None for a path on the disk.

    Raises:
        ValueError, OSError: see `read_archive`.
    """
    if path.is_dir():
        return None
    for parent in (path, *path.parents):
        if parent.suffix.lower() in ENDINGS and parent.is_file():
            below = path.relative_to(parent).as_posix()
            return read_archive(parent), "" if below == "." else f"{below}/"
    return None


def is_folder(path: Path) -> bool:
    """Whether a path is a folder, an archive, or a folder in an archive."""
    found = inside(path)
    return path.is_dir() if found is None else any(name.startswith(found[1]) for name in found[0].names)


def find_folder(root: Path, name: str) -> Path | None:
    """The folder of a name in `root`, or the archive that replaces it; None if there is neither.

    Raises:
        ValueError: several archives could replace it; or see `read_archive`.
    """
    if is_folder(root / name):
        return root / name
    candidates = (*(f"{name}{ending}" for ending in ENDINGS), *_OFFICIAL.get(name, ()))
    found = [root / place for place in candidates if is_folder(root / place)]
    if len(found) > 1:
        raise ValueError(f"{root}: {' and '.join(map(str, found))} both stand for {name}/; keep one of them")
    return found[0] if found else None


def refuse_compressed(root: Path, name: str) -> None:
    """Refuse an archive in place of a folder if single images cannot be read from it.

    Raises:
        ValueError: there is such an archive.
    """
    for path in (root / f"{name}{ending}" for ending in _COMPRESSED):
        if path.is_file():
            raise ValueError(
                f"{path} is compressed as a whole, so single images cannot be read from it: unpack it, or decompress it "
                f"to {name}.tar"
            )


def name_in_lists(place: Path) -> str:
    """The name that a folder or an archive found by `find_folder` has in lists of images."""
    for split, places in _OFFICIAL.items():
        if any(place.as_posix().endswith(f"/{official}") for official in places):
            return split
    return place.name if place.is_dir() or place.suffix.lower() not in ENDINGS else place.stem


def read_file(path: Path) -> bytes | None:
    """The content of a text file on the disk or in an archive; None if there is none."""
    if path.is_file():
        return read_bytes(path)
    found = inside(path.parent)
    if found is None:
        return None
    archive, prefix = found
    members = Members((archive.path,), archive.find([prefix + path.name]))
    return members.read(0) if members.has(0) else None


def walk(folder: Path, endings: frozenset[str]) -> FoundFiles:
    """The files with one of `endings` in a folder on the disk (`walk_files`) or in an archive, at any depth."""
    found = inside(folder)
    if found is None:
        return walk_files(folder, endings)
    archive, prefix = found
    files = FoundFiles()
    for name in sorted(name[len(prefix) :] for name in archive.names if name.startswith(prefix)):
        ending = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if ending in endings:
            files.names.append(name)
        else:
            files.leave_out(ending, name)
    return files


def sub_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder or an archive, sorted; hidden ones are left out."""
    found = inside(folder)
    if found is not None:
        archive, prefix = found
        parts = (name[len(prefix) :].split("/", 1) for name in archive.names if name.startswith(prefix))
        return sorted({part[0] for part in parts if len(part) == 2})
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def locate(images: ImageList) -> ImageList:
    """The list with the places of its images in archives; unchanged where they are files.

    Images are in archives if the root of the list leads into one, or if the first folder of their names does not exist
    and `find_folder` finds an archive for it.

    Raises:
        ValueError: some of the images are in archives and some are files; or see `read_archive`.
    """
    names = [images.name(index) for index in range(len(images))]
    found = inside(images.root)
    if found is not None:
        archive, prefix = found
        return replace(
            images, source=Members((archive.path,), archive.find([prefix + name for name in names]))
        )
    firsts = np.array([name.split("/", 1)[0] if "/" in name else "" for name in names])
    archives: dict[str, tuple[Archive, str]] = {}
    for first in filter(None, np.unique(firsts).tolist()):
        place = find_folder(images.root, first)
        found = None if place is None else inside(place)
        if place is None:
            refuse_compressed(images.root, first)
        elif found is not None:
            archives[first] = found
    if not archives:
        return images
    on_disk = np.flatnonzero(~np.isin(firsts, list(archives)))
    paths = tuple(archive.path for archive, _ in archives.values())
    if len(on_disk):
        raise ValueError(
            f"{images.root}: the list has images in {paths[0].name} and others, such as {names[on_disk[0]]}; put either "
            "all of them or none of them into archives"
        )
    entries = np.zeros(len(names), ENTRY)
    for number, (first, (archive, prefix)) in enumerate(archives.items()):
        rows = np.flatnonzero(firsts == first)
        entries[rows] = archive.find([f"{prefix}{names[row][len(first) + 1 :]}" for row in rows])
        entries["file"][rows] = number
    note = f"{images.root}: images are read from {', '.join(path.name for path in paths)}, without unpacking"
    return replace(images, source=Members(paths, entries), notes=(*images.notes, note))
