"""Training and validation list files for a tree of class folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from beit.data.class_folders import SPLITS, class_folder_names, image_names, write_list_files

_NAMES = ("train_list.txt", "val_list.txt", "class_names.txt")


def make_lists(folder: Path, *, val: float = 0.2, seed: int = 0) -> dict[str, int]:
    """Write `train_list.txt`, `val_list.txt` and `class_names.txt` into `folder`; images of each split.

    Of each class the share `val` (rounded, at least one image where there are two) goes to validation, drawn with a
    generator of its own: the split of a class depends on its images and the seed alone. `label` is the place of the
    class among the sorted folder names.

    Raises:
        FileExistsError: one of the files is there already.
        FileNotFoundError, ValueError: there are no class folders, one has no images, or a name cannot be written.
    """
    existing = [name for name in _NAMES if (folder / name).exists()]
    if existing:
        raise FileExistsError(f"{folder} already has {', '.join(existing)}; remove them to make new ones")
    if not 0 < val < 1:
        raise ValueError(f"--val {val}: expected a share between 0 and 1, such as 0.2")
    if all((folder / split).is_dir() for split in SPLITS):
        write_list_files(folder)
        return {split: len((folder / f"{split}_list.txt").read_bytes().splitlines()) for split in SPLITS}
    names = class_folder_names(folder)
    lines: dict[str, list[str]] = {split: [] for split in SPLITS}
    for label, name in enumerate(names):
        images = image_names(folder, name)
        if not images:
            raise ValueError(f"{folder / name} has no images; fill or remove the folder")
        held_out = _held_out(len(images), val, np.random.default_rng([seed, len(images), *name.encode()]))
        for index, image in enumerate(images):
            lines["val" if index in held_out else "train"].append(_line(folder, image, label))
    for split in SPLITS:
        _write_new(folder / f"{split}_list.txt", lines[split])
    _write_new(folder / "class_names.txt", names)
    return {split: len(lines[split]) for split in SPLITS}


def _held_out(count: int, val: float, rng: np.random.Generator) -> set[int]:
    if count < 2:
        return set()
    held_out = min(max(round(val * count), 1), count - 1)
    return set(rng.choice(count, held_out, replace=False).tolist())


def _line(folder: Path, image: str, label: int) -> str:
    line = f"{image} {label}"
    if "\n" in line or "\r" in line or image != image.strip() or not _is_utf8(image):
        raise ValueError(f"{folder / image!r}: this name cannot be written in a list file; rename it")
    return line


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _write_new(path: Path, lines: Sequence[str]) -> None:
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
