"""Recognizes the publisher of a state by its tensor names, and translates the names by the publisher's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from beit.checkpoint.canonical import State, is_canonical, segmentation_name
from beit.checkpoint.key_format import KeyFormat, any_match, matches, rename
from beit.containers.errors import CheckpointError, shown
from beit.metadata.architecture import SEGMENTATION

INDEX_BUFFER = "relative_position_index"
BATCH_NORM = (("*.running_mean", "*._mean"), ("*.running_var", "*._variance"))  # (PyTorch, Paddle)
BATCH_COUNT = "num_batches_tracked"


def recognize(
    arrays: Mapping[str, np.ndarray], key: str | None, formats: Iterable[KeyFormat]
) -> KeyFormat | None:
    """The first format that fits the names and, where they are ambiguous, the wrapper or the layout; None if none does.

    Args:
        arrays: a state by the names of the file.
        key: under which the file holds it; None at the top level.
        formats: to choose from.
    """
    for key_format in formats:
        if (
            (key_format.wrappers is None or key in key_format.wrappers)
            and all(any_match(pattern, arrays) for pattern in key_format.has)
            and not any(any_match(pattern, arrays) for pattern in key_format.lacks)
            and _has_no_prefix(arrays, key_format)
            and (
                not key_format.recognized_by_layout
                or layout_of(rename_all(arrays, key_format)[0]) == key_format.layout
            )
        ):
            return key_format
    return None


def _has_no_prefix(arrays: Mapping[str, np.ndarray], key_format: KeyFormat) -> bool:
    """Whether a name that fits the first pattern, which may begin with `*`, is one that the format translates."""
    pattern = key_format.has[0]
    return any(matches(pattern, name) and is_known(name, key_format) for name in arrays)


def is_known(name: str, key_format: KeyFormat) -> bool:
    """Whether a name of the file is that of a tensor in one of the format's kinds of models."""
    canonical = rename(_usual_spelling(name, key_format), key_format.rules)
    if canonical is None:
        return False
    names = {
        kind: segmentation_name(canonical) if kind == SEGMENTATION else canonical for kind in key_format.kinds
    }
    return any(is_canonical(known, kind) for kind, known in names.items())


def rename_all(
    arrays: Mapping[str, np.ndarray], key_format: KeyFormat
) -> tuple[State, dict[str, str], list[str]]:
    """The state under canonical names (q, k, v still separate), names left out with the reason, unknown names.

    Raises:
        CheckpointError: the file holds one tensor under two names.
    """
    state: State = {}
    origins: dict[str, str] = {}  # canonical name -> name in the file
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    for name, array in arrays.items():
        known = _usual_spelling(name, key_format)
        reason = next((why for pattern, why in key_format.drops if matches(pattern, known)), None)
        if known.endswith(INDEX_BUFFER):
            reason = "index buffer, rebuilt from the grid"
        elif known.endswith(BATCH_COUNT):
            reason = "counter without use outside Torch"
        canonical = rename(known, key_format.rules)
        if reason is not None:
            dropped[name] = reason
        elif canonical is None:
            unknown.append(name)
        else:
            canonical = rename(canonical, BATCH_NORM) or canonical
            if canonical in state:
                raise CheckpointError(
                    f"{shown(origins[canonical])} and {shown(name)} are two names of one tensor ({canonical}): "
                    "which of them counts is not stated"
                )
            state[canonical], origins[canonical] = array, name
    return state, dropped, unknown


def _usual_spelling(name: str, key_format: KeyFormat) -> str:
    while (other := rename(name, key_format.aliases)) is not None:
        name = other
    return name


def layout_of(state: Mapping[str, np.ndarray]) -> str | None:
    """ "paddle" (in, out) or "torch" (out, in), by the first Linear weight whose shape tells them apart."""
    for name, array in state.items():
        for suffix in (".attn.qkv.weight", ".mlp.fc1.weight"):
            norm = state.get(f"{name.removesuffix(suffix)}.norm1.weight") if name.endswith(suffix) else None
            if norm is None or norm.ndim != 1 or array.ndim != 2 or array.shape[0] == array.shape[1]:
                continue
            if norm.shape[0] in array.shape:
                return "paddle" if array.shape[0] == norm.shape[0] else "torch"
    return None
