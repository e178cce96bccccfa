"""The random split of images into training and validation, for data that have none."""

from __future__ import annotations

import shlex

import numpy as np

from beit.data.image_list import ImageList

VAL_SHARE, SEED = 0.2, 0
"""Share of each class for validation, and seed of the split, where nothing else is said."""


def split_at_random(images: ImageList, val: float = VAL_SHARE, seed: int = SEED) -> dict[str, list[int]]:
    """The indices of the training and validation images, each class split at random.

    The split of a class depends only on its name, its number of images and the seed.

    Args:
        images: with labels and class names.
        val: share of each class for validation, rounded; at least one image of a class that has two.
        seed: of the random numbers.
    """
    assert images.labels is not None and images.class_names is not None
    split: dict[str, list[int]] = {"train": [], "val": []}
    for label, name in enumerate(images.class_names):
        members = np.flatnonzero(images.labels == label).tolist()
        held_out = _held_out(len(members), val, np.random.default_rng([seed, len(members), *name.encode()]))
        for place, index in enumerate(members):
            split["val" if place in held_out else "train"].append(index)
    return split


def take_split(images: ImageList, split: str) -> ImageList:
    """The images of one part of the split with the usual share and seed, with a note that says so.

    Args:
        images: of class folders, with labels and class names.
        split: "train" or "val".
    """
    assert images.labels is not None
    indices = sorted(split_at_random(images)[split])
    note = (
        f"{images.root} has no train/ and val/: {100 * VAL_SHARE:g} % of each class are held out for validation at random "
        f"(seed {SEED}); where a class gains or loses images, others are. `python -m beit make-lists "
        f"{shlex.quote(str(images.root))}` makes the same split as list files, with --val and --seed also another one"
    )
    names = [images.name(index) for index in indices]
    labels = images.labels[indices].tolist()
    return ImageList.from_names(images.root, names, labels, images.class_names, (*images.notes, note))


def _held_out(count: int, val: float, rng: np.random.Generator) -> set[int]:
    if count < 2:
        return set()
    held_out = min(max(round(val * count), 1), count - 1)
    return set(rng.choice(count, held_out, replace=False).tolist())
