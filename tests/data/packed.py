"""Small images in the archives and files in which data sets are distributed."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from beit.data.image_list import ImageList


def png(value: int, size: tuple[int, int] = (6, 5)) -> bytes:
    """The bytes of an image of one gray value."""
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, "png")
    return file.getvalue()


def gray(image: Image.Image) -> int:
    """The gray value of an image of `png`."""
    return int(np.asarray(image)[0, 0, 0])


def write_tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder; returns it."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def touch(folder: Path, *names: str) -> Path:
    """Empty files in a folder, which is returned."""
    return write_tree(folder, dict.fromkeys(names, b""))


def rows(images: ImageList) -> list[tuple[str, int]]:
    """Name and label of each image."""
    return [(images.name(i), int(label)) for i, label in enumerate(images.labels)]


def tar_bytes(files: Mapping[str, bytes], layout: int = tarfile.USTAR_FORMAT) -> bytes:
    """The content of a tar of files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=layout) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # webdataset writes fractions of seconds, in pax headers
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes], layout: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar of files; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files, layout))
    return path


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Write a zip of files; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path
