"""Merges the metadata inside of weights with the files beside them; where they differ, the file beside them is used.

A person can edit that file and cannot see the metadata inside of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from beit.metadata.class_names import first_difference, stated_names
from beit.metadata.pretrained_cfg import TIMM_KEYS, pretrained_cfg, read_pretrained_cfg
from beit.metadata.processor_config import FILE, PROCESSOR, processor_config, read_processor
from beit.metadata.stated import MODEL_ARGS, NOT_IN_TENSORS, stated_model
from beit.preprocessing import Preprocessing

Difference = tuple[str, object, object]
"""What is stated, the value, and the other value."""
CLASS_NAMES = "the class names"
"""What is stated, in a `Difference` of class names."""
_KEPT = ("input_size", "exif_orientation")
"""Keys of the metadata's `pretrained_cfg` that `preprocessor_config.json` has no place for."""
_NOT_COMPARED = ("source", "pooling", "exif_orientation")


def read_preprocessing(metadata: Mapping[str, object], known: Preprocessing) -> Preprocessing:
    """`known` with the values that timm's or transformers' JSON states instead."""
    timm, processor = metadata.get("pretrained_cfg"), metadata.get(PROCESSOR)
    if isinstance(timm, Mapping):
        known = read_pretrained_cfg(timm, known)
    return read_processor(processor, known) if isinstance(processor, Mapping) else known


def merge(
    inside: Mapping[str, object], beside: Mapping[str, object]
) -> tuple[dict[str, object], tuple[str, ...]]:
    """Both as one mapping, and a sentence on each value inside of the weights that a file beside them replaces.

    Where the file beside states what `convert` writes for the metadata, nobody edited it. The metadata is kept then,
    since it can state more.

    Args:
        inside: metadata in the weights file.
        beside: the JSON beside it.
    """
    merged = {**beside, **inside, **{key: beside[key] for key in _shared(inside, beside)}}
    arguments, theirs = stated_model(inside).arguments(), beside.get(MODEL_ARGS)
    for field, keys in NOT_IN_TENSORS.items():
        if getattr(stated_model(beside), field) is not None:
            arguments.pop(keys.timm, None)
    merged[MODEL_ARGS] = arguments | (dict(theirs) if isinstance(theirs, Mapping) else {})
    notes, found = _merge_preprocessing(merged, inside, beside), list(differences(inside, beside))
    if CLASS_NAMES in {what for what, _, _ in found}:
        merged.pop("class_names")
        merged |= {key: value for key, value in beside.items() if key == "class_names"}
    notes += [_sentence(what, other, own, "the JSON") for what, own, other in found]
    return merged, tuple(notes)


def differences(stated: Mapping[str, object], others: Mapping[str, object]) -> Iterator[Difference]:
    """What two sources state differently of the classes and the model."""
    names, other_names = stated_names(stated), stated_names(others)
    if names and other_names and names != other_names:
        yield CLASS_NAMES, first_difference(names, other_names), first_difference(other_names, names)
    model, other_model = stated_model(stated), stated_model(others)
    for field, keys in NOT_IN_TENSORS.items():
        values = getattr(model, field), getattr(other_model, field)
        if None not in values and values[0] != values[1]:
            yield keys.transformers, *values
    for key in _shared(stated, others):
        if stated[key] != others[key]:
            yield key, stated[key], others[key]


def _shared(stated: Mapping[str, object], others: Mapping[str, object]) -> list[str]:
    """Keys of both whose values are compared as they are."""
    return sorted(stated.keys() & others.keys() - {"pretrained_cfg", "class_names", MODEL_ARGS})


def _merge_preprocessing(
    merged: dict[str, object], inside: Mapping[str, object], beside: Mapping[str, object]
) -> list[str]:
    """Make `merged` state one preprocessing; sentences on differences."""
    description = inside.get("pretrained_cfg")
    if not isinstance(description, Mapping) or not beside.keys() & {"pretrained_cfg", PROCESSOR}:
        return []
    own = read_preprocessing(inside, Preprocessing())
    if PROCESSOR in beside:
        written: dict[str, object] = {PROCESSOR: processor_config(own)}
        file, replaced = FILE, {PROCESSOR: beside[PROCESSOR]}
    else:
        timm = {key: value for key, value in pretrained_cfg(own).items() if key in TIMM_KEYS}
        written, file = {"pretrained_cfg": timm}, "config.json"
        replaced = {}
    other = read_preprocessing({key: beside[key] for key in written}, Preprocessing())
    again = read_preprocessing(written, Preprocessing())
    names = [field.name for field in fields(other) if field.name not in _NOT_COMPARED]
    differing = [name for name in names if getattr(other, name) != getattr(again, name)]
    if not differing:
        merged.pop(PROCESSOR, None)
        return []
    kept = {key: description[key] for key in _KEPT if key in description}
    stated = beside.get("pretrained_cfg")
    merged["pretrained_cfg"] = kept | dict(stated) if isinstance(stated, Mapping) else kept
    merged |= replaced
    return [_sentence(name, getattr(other, name), getattr(again, name), file) for name in differing]


def _sentence(what: str, beside: object, inside: object, file: str) -> str:
    return f"{what}: {beside} in {file}, {inside} in the metadata inside of the weights: {file} is used, which people edit"
