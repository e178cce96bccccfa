"""The mean of several checkpoints of one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.translate import Checkpoint


def mean_checkpoint(sources: Sequence[str | Path]) -> Checkpoint:
    """The mean of the weights, added up in float64, with the preprocessing and class names that all of them have.

    Source: model soups, arXiv 2203.05482; timm's avg_checkpoints.py.

    Args:
        sources: one or more, as in `open_checkpoint`; of a training checkpoint the weights that an evaluation would take.

    Raises:
        ValueError: they differ in tensors, preprocessing or class names.
    """
    first = open_checkpoint(sources[0])
    total = {name: value.astype(np.float64) for name, value in first.state.items()}
    for source in sources[1:]:
        other = open_checkpoint(source)
        _check_same(str(sources[0]), first, str(source), other)
        for name, value in other.state.items():
            total[name] += value
    state = {
        name: (value / len(sources)).astype(first.state[name].dtype)
        if first.state[name].dtype.kind == "f"
        else first.state[name]
        for name, value in total.items()
    }
    note = f"mean of {len(sources)} checkpoints: {', '.join(map(str, sources))}"
    return Checkpoint(state, replace(first.info, results={}, notes=(*first.info.notes, note)))


def _check_same(first_name: str, first: Checkpoint, name: str, other: Checkpoint) -> None:
    """Refuse checkpoints of two models. Whole numbers, such as position indices, must be equal."""
    reasons = [
        f"{key} is {_shape(other, key)} in one and {_shape(first, key)} in the other"
        for key in sorted(first.state.keys() | other.state.keys())
        if _shape(other, key) != _shape(first, key)
    ]
    reasons = reasons or [
        f"{key} differs"
        for key, value in first.state.items()
        if value.dtype.kind != "f" and not np.array_equal(value, other.state[key])
    ]
    mine, theirs = (replace(item.info.preprocessing, source="") for item in (first, other))
    if mine != theirs:
        reasons.append(f"the preprocessing is {theirs} in one and {mine} in the other")
    if first.info.class_names != other.info.class_names:
        reasons.append("the class names differ")
    if reasons:
        raise ValueError(f"{name} and {first_name} cannot be averaged: {reasons[0]}")


def _shape(checkpoint: Checkpoint, name: str) -> str:
    return str(list(checkpoint.state[name].shape)) if name in checkpoint.state else "absent"
