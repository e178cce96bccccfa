"""Random split of class folders into training and validation list files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beit.data.class_folders import SPLITS, class_folder_names, image_names, write_list_files
from beit.data.list_file import format_line, write_lines

_NAMES = ("train_list.txt", "val_list.txt", "class_names.txt")


def make_lists(folder: Path, *, val: float = 0.2, seed: int = 0) -> dict[str, int]:
    """Write `train_list.txt`, `val_list.txt` and `class_names.txt` into `folder`. Returns the images of each split.

    Folders `train` and `val` are kept as the splits. Otherwise each class is split at random; the result depends only
    on the name of the class, its number of images and `seed`, not on the other classes. Labels count the sorted names
    of the class folders.

    Args:
        folder: with the class folders `<class>/<image>` or `<split>/<class>/<image>`.
        val: share of each class for validation, rounded; at least one image of a class that has two.
        seed: of the random split.

    Raises:
        FileExistsError: one of the files exists already.
        FileNotFoundError: `folder` does not exist.
        ValueError: there are no class folders, one has no images, a name cannot be written, or `val` is not in (0, 1).
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
            lines["val" if index in held_out else "train"].append(format_line(folder, image, label))
    for split in SPLITS:
        write_lines(folder / f"{split}_list.txt", lines[split])
    write_lines(folder / "class_names.txt", names)
    return {split: len(lines[split]) for split in SPLITS}


def _held_out(count: int, val: float, rng: np.random.Generator) -> set[int]:
    if count < 2:
        return set()
    held_out = min(max(round(val * count), 1), count - 1)
    return set(rng.choice(count, held_out, replace=False).tolist())
