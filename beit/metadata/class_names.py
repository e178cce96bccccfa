"""Names of the classes of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from beit.imagenet_classes import class_names as names_of_list

PUBLISHED_LISTS = {1000: "imagenet-1k", 21841: "imagenet-21k"}
"""Outputs of a published head -> list of `beit.imagenet_classes` that it was trained on."""

ClassNames = tuple[str, ...] | str
"""Names in the order of the outputs, or the name of a list of `beit.imagenet_classes`."""


def find_class_names(
    num_classes: int, metadata: Mapping[str, object], *, is_published: bool
) -> ClassNames | None:
    """Names of the classes of a checkpoint; None if they are unknown.

    The first of these counts: `class_names.txt` of a run, `class_names` of a converted file, timm's `label_names` (or
    their `label_descriptions`), transformers' `id2label`, the `meta` of OpenMMLab's files. Without any of them, a
    publisher's file with 1,000 or 21,841 outputs has ImageNet's names.

    Args:
        num_classes: outputs of its head; lists of another length are not taken.
        metadata: the JSON beside the weights, see `beit.metadata.files`.
        is_published: the file has the form of a publisher; those of this package may come from anybody.
    """
    if not num_classes:
        return None
    for names in _stated_names(metadata).values():
        if isinstance(names, str) and PUBLISHED_LISTS.get(num_classes) == names:
            return names
        if isinstance(names, list | tuple) and len(names) == num_classes:
            return tuple(str(name) for name in names)
    return PUBLISHED_LISTS.get(num_classes) if is_published else None


def describe_unused_names(num_classes: int, metadata: Mapping[str, object]) -> list[str]:
    """Sentences on lists of names that are not those of the head."""
    return [
        f"{source} names {len(names)} classes, the head has {num_classes} outputs: not used"
        for source, names in _stated_names(metadata).items()
        if num_classes and isinstance(names, list | tuple) and len(names) != num_classes
    ]


def stated_names(metadata: Mapping[str, object]) -> tuple[str, ...] | None:
    """The most specific names that the metadata states, those of a published list written out."""
    names = next(iter(_stated_names(metadata).values()), None)
    if isinstance(names, str):
        return names_of_list(names) if names in PUBLISHED_LISTS.values() else None
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else None


def first_difference(names: tuple[str, ...], others: tuple[str, ...]) -> str:
    """The first name that the other list does not have at its place, or the number of names."""
    if len(names) != len(others):
        return f"{len(names)} names"
    return next(f"{names[i]!r} (class {i})" for i in range(len(names)) if names[i] != others[i])


def _stated_names(metadata: Mapping[str, object]) -> dict[str, object]:
    """Key -> names that it states, the most specific first."""
    timm, meta = metadata.get("pretrained_cfg"), metadata.get("meta")
    dataset = meta.get("dataset_meta", meta) if isinstance(meta, Mapping) else None
    found = {
        "class_names": metadata.get("class_names"),
        "label_names": _from_timm(metadata),  # at the top of config.json, as its save_for_hf writes it
        "label_names of pretrained_cfg": _from_timm(timm) if isinstance(timm, Mapping) else None,
        "id2label": _from_labels(metadata.get("id2label")),
        "meta": dataset.get("classes", dataset.get("CLASSES")) if isinstance(dataset, Mapping) else None,
    }
    return {source: names for source, names in found.items() if names}


def _from_timm(stated: Mapping[str, object]) -> list[str] | None:
    """timm's label names (a list, or {index: name}), by their descriptions where it has them."""
    names, descriptions = stated.get("label_names", stated.get("labels")), stated.get("label_descriptions")
    names = _in_order(names) if isinstance(names, Mapping) else names
    if not isinstance(names, list | tuple):
        return None
    known = descriptions if isinstance(descriptions, Mapping) else {}
    return [str(known.get(str(name), name)) for name in names]


def parse_class_names(text: str) -> tuple[str, ...]:
    """The names in a text with one class per line, in the order of the labels.

    Only line feeds end a line; empty lines and blanks at the ends of a line are ignored. Where every line begins with
    a class number, as in the label lists of PaddleClas (`0 tench, Tinca tinca`), the numbers give the order and are no
    part of the names.
    """
    lines = [line.strip(" \t\r\v\f") for line in text.removeprefix("\ufeff").split("\n")]
    lines = [line for line in lines if line]
    numbered = [re.fullmatch(r"([0-9]{1,9})[ \t]+(.+)", line, re.DOTALL) for line in lines]
    by_label = {int(match[1]): match[2] for match in numbered if match}
    if lines and all(numbered) and set(by_label) == set(range(len(lines))):
        return tuple(by_label[label] for label in range(len(lines)))
    return tuple(lines)


def format_class_names(names: Sequence[str]) -> str:
    """The text that `parse_class_names` reads as these names: one per line, after class numbers if names look numbered.

    Raises:
        ValueError: a name is empty, has a line break, or begins or ends with a blank.
    """
    wrong = [name for name in names if parse_class_names(f"0 {name}") != (name,)]
    if wrong:
        raise ValueError(
            f"the class name {wrong[0]!r} has a line break or a blank at an end, or is empty; rename the class"
        )
    plain = "".join(f"{name}\n" for name in names)
    if parse_class_names(plain) == tuple(names):
        return plain
    return "".join(f"{label} {name}\n" for label, name in enumerate(names))


def _from_labels(labels: object) -> list[str] | None:
    """transformers' `{"0": "tench", …}` in order; None for its placeholders `LABEL_0`."""
    names = _in_order(labels) if isinstance(labels, Mapping) else None
    return None if names is None or any(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _in_order(labels: Mapping[Any, object]) -> list[str] | None:
    """The names of {index: name} in the order of the indices, in which transformers' list of ImageNet-21k has gaps."""
    try:
        return [str(labels[key]) for key in sorted(labels, key=int)]
    except (TypeError, ValueError):
        return None
