"""The random split of images into training and validation, for data that have none."""

from __future__ import annotations

import hashlib
import os
import shlex

import numpy as np

from beit.data.image_list import ImageList

VAL_SHARE, SEED = 0.2, 0
"""Share of each class for validation, and seed of the split, where nothing else is said."""


def split_at_random(images: ImageList, val: float = VAL_SHARE, seed: int = SEED) -> dict[str, list[int]]:
    """The indices of the training and validation images, each class split at random.

    Whether an image is held out is drawn from its name and the seed, so that an image that is added or removed moves at
    most one other of its class.

    Args:
        images: with labels and class names.
        val: share of each class for validation, rounded; at least one image of a class that has two.
        seed: of the draw.
    """
    assert images.labels is not None and images.class_names is not None
    split: dict[str, list[int]] = {"train": [], "val": []}
    for label in range(len(images.class_names)):
        members = np.flatnonzero(images.labels == label).tolist()
        drawn = sorted(members, key=lambda index: _draw(seed, images.name(index)))
        held_out = set(drawn[: _count(len(members), val)])
        for index in members:
            split["val" if index in held_out else "train"].append(index)
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
        f"{images.root} has no train/ and val/: {100 * VAL_SHARE:g} % of each class are held out for validation, drawn "
        f"at random by their names (seed {SEED}). `python -m beit make-lists "
        f"{shlex.quote(str(images.root))}` makes the same split as list files, with --val and --seed also another one"
    )
    names = [images.name(index) for index in indices]
    labels = images.labels[indices].tolist()
    return ImageList.from_names(images.root, names, labels, images.class_names, (*images.notes, note))


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(os.fsencode(f"{seed}/{name}")).digest()


def _count(images: int, val: float) -> int:
    """How many images of a class are held out."""
    return min(max(round(val * images), 1), images - 1) if images > 1 else 0
