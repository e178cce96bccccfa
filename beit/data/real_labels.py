"""ReaL labels of ImageNet's validation images: the set of all classes that are in an image."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from beit.data.image_list import ImageList
from beit.data.list_file import multi_hot
from beit.imagenet_classes import synsets
from beit.text_files import read_text

_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})")


def with_real_labels(images: ImageList, file: Path, num_classes: int) -> ImageList:
    """ImageNet's validation images with the labels of `real.json`, bool `[len, 1000]`; some images have no label.

    Source: Beyer et al. 2020, arXiv 2006.07159, https://github.com/google-research/reassessed-imagenet: entry k of the list
    has the class numbers of the image ILSVRC2012_val_<k + 1>.

    Args:
        images: which have the file names of ImageNet, in any order; not necessarily all.
        file: `real.json`.
        num_classes: of the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form, the model does not have the 1000 classes, or an image has another name or no entry.
    """
    try:
        entries = json.loads(read_text(file))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from None
    classes = synsets("imagenet-1k")
    if num_classes != len(classes):
        raise ValueError(f"TEST.REAL_LABELS are of {len(classes)} classes, the model has {num_classes}")
    if not isinstance(entries, list) or not all(_is_entry(entry, len(classes)) for entry in entries):
        raise ValueError(
            f"{file} is not real.json; expected a list with a list of class numbers for each image"
        )
    rows, labels = [], []
    for index in range(len(images)):
        match = _NUMBER.search(images.name(index))
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(entries):
            raise ValueError(
                f"{images.path(index)} has no ReaL labels: {file} has those of ILSVRC2012_val_00000001 to "
                f"{len(entries):08d}"
            )
        rows += [index] * len(entries[number - 1])
        labels += entries[number - 1]
    values = multi_hot(np.array(labels, np.int64), np.array(rows, np.int64), (len(images), len(classes)))
    without = int((~values.any(1)).sum())
    note = f"{file}: {without} of {len(images)} images have no ReaL label and do not count"
    return replace(images, labels=values, class_names=classes, notes=(*images.notes, note))


def _is_entry(entry: object, classes: int) -> bool:
    return isinstance(entry, list) and all(type(label) is int and 0 <= label < classes for label in entry)
