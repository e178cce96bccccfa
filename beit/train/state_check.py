"""Whether a checkpoint holds a training state of this package: the type of each of its entries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoint.files import nonfinite_names
from beit.containers.errors import shown
from beit.text_files import load_yaml


def check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Check the entries of a training state before any of it is loaded.

    Args:
        path: of the checkpoint, for the message.
        state: its contents.

    Raises:
        ValueError: an entry is missing, of another type, or not finite.
    """
    for name, (words, accepts) in _ENTRIES.items():
        if name not in state:
            problem = f"has no entry {name!r}"
        elif not accepts(state[name]):
            problem = f"has {_kind(state[name])} as {name!r}, expected {words}"
        else:
            continue
        raise ValueError(
            f"{path} is not a training state that this version wrote: it {problem}; continue another checkpoint, or "
            "start a new run from its weights with -pretrained"
        )
    for name in ("model", "model_ema", "optimizer"):
        bad = nonfinite_names(state[name] or {})
        if bad:
            raise ValueError(
                f"{path} cannot be continued: {len(bad)} tensors of {name!r} have NaN or infinity, first {shown(bad[0])}; "
                "continue an earlier checkpoint"
            )


def _kind(value: Any) -> str:
    return shown(repr(value)) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"


def _are_arrays(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(array, np.ndarray) and array.dtype.kind in "fiub"
        for name, array in value.items()
    )


def _are_scalars(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str)
        and (
            isinstance(number, Real)
            or (isinstance(number, np.ndarray) and number.dtype.kind in "fiub" and number.size == 1)
        )
        for name, number in value.items()
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_score(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _is_order(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(entry, str | int) for name, entry in value.items()
    )


def _is_config(value: Any) -> bool:
    try:
        return isinstance(value, str) and isinstance(load_yaml(value), dict)
    except ValueError:
        return False


_ENTRIES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "model": ("arrays by name", _are_arrays),
    "model_ema": ("arrays by name, or None", lambda value: value is None or _are_arrays(value)),
    "optimizer": ("arrays by name", _are_arrays),
    "scaler": ("numbers by name", _are_scalars),
    "step": ("a number of steps", _is_count),
    "best": ("a score", _is_score),
    "since_best": ("a number of evaluations", _is_count),
    "order": ("numbers and texts by name", _is_order),
    "config": ("a config in YAML", _is_config),
}
"""Entry of a training state -> what it is in words, and the check."""
