"""Names of the classes of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping

from beit.checkpoint.key_format import NATIVE

PUBLISHED_LISTS = {1000: "imagenet-1k", 21841: "imagenet-21k"}
"""Outputs of a published head -> list of `beit.imagenet_classes` that it was trained on."""

ClassNames = tuple[str, ...] | str
"""Names in the order of the outputs, or the name of a list of `beit.imagenet_classes`."""


def find_class_names(publisher: str, num_classes: int, metadata: Mapping[str, object]) -> ClassNames | None:
    """Names of the classes of a checkpoint; None if they are unknown.

    Files beside the weights take precedence: `class_names.txt` of a run, `class_names` of a converted file, timm's
    `label_names`, transformers' `id2label`. Otherwise a publisher's file with 1,000 or 21,841 outputs has ImageNet's.

    Args:
        publisher: of the file; "canonical" files may come from anybody.
        num_classes: outputs of its head; lists of another length are not taken.
        metadata: the JSON beside the weights, see `beit.checkpoint.metadata`.
    """
    if not num_classes:
        return None
    timm = metadata.get("pretrained_cfg")
    candidates = (
        metadata.get("class_names"),
        timm.get("label_names") if isinstance(timm, Mapping) else None,
        _from_labels(metadata.get("id2label")),
    )
    for names in candidates:
        if isinstance(names, str) and PUBLISHED_LISTS.get(num_classes) == names:
            return names
        if isinstance(names, list | tuple) and len(names) == num_classes:
            return tuple(str(name) for name in names)
    return PUBLISHED_LISTS.get(num_classes) if publisher != NATIVE else None


def _from_labels(labels: object) -> list[str] | None:
    """transformers' `{"0": "tench", …}` in order; None for its placeholders `LABEL_0`."""
    if not isinstance(labels, Mapping):
        return None
    try:
        names = [str(labels[key]) for key in sorted(labels, key=int)]
    except (TypeError, ValueError):
        return None
    return None if any(re.fullmatch(r"LABEL_\d+", name) for name in names) else names
