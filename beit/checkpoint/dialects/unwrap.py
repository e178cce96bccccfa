"""From the tree a file holds to one flat state: wrapper keys, moving averages, prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from beit.checkpoint.canonical import State
from beit.checkpoint.errors import CheckpointError

_WRAPPERS = ("model", "module", "state_dict", "weights")  # the official loaders try them in this order
_EMA_WRAPPERS = ("model_ema", "state_dict_ema")
_DATA_PARALLEL_PREFIX = "module."


@dataclass(frozen=True)
class Candidates:
    """The states one file offers: trained weights and, maybe, their moving average."""

    weights: Mapping[str, object] | None
    averaged: Mapping[str, object] | None
    weights_key: str | None
    averaged_key: str | None


def find_states(tree: Mapping[str, object]) -> Candidates:
    """The state dicts inside `tree`, wherever the publisher put them.

    Raises:
        CheckpointError: there is no tensor in it.
    """
    averaged_key = next((key for key in _EMA_WRAPPERS if _is_state(tree.get(key))), None)
    weights_key = next((key for key in _WRAPPERS if _is_state(tree.get(key))), None)
    weights = _as_state(tree[weights_key]) if weights_key else tree if _is_state(tree) else None
    averaged = _as_state(tree[averaged_key]) if averaged_key else None
    if weights is None and averaged is None:
        keys = ", ".join(str(key) for key in list(tree)[:8])
        raise CheckpointError(
            f"the file holds no model weights: expected tensors, or tensors under one of "
            f"{', '.join((*_WRAPPERS, *_EMA_WRAPPERS))}; its top-level keys are: {keys or 'none'}"
        )
    return Candidates(weights, averaged, weights_key, averaged_key)


def choose(
    candidates: Candidates, ema: bool | None, prefers_ema: bool
) -> tuple[Mapping[str, object], str | None, bool]:
    """The state to use, its wrapper key, and whether it is the moving average.

    Raises:
        CheckpointError: `ema` asks for what the file does not hold.
    """
    if ema and candidates.averaged is None:
        raise CheckpointError(
            "the file holds no averaged weights (model_ema); leave the choice of EMA weights out"
        )
    if ema is False and candidates.weights is None:
        raise CheckpointError("the file holds averaged weights only; ask for them (ema=True)")
    use_averaged = prefers_ema if ema is None else ema
    if candidates.averaged is not None and (use_averaged or candidates.weights is None):
        return candidates.averaged, candidates.averaged_key, True
    assert candidates.weights is not None  # find_states leaves one of the two
    return candidates.weights, candidates.weights_key, False


def flatten(state: Mapping[str, object]) -> tuple[State, dict[str, str]]:
    """Arrays by name without the data-parallel prefix, and the entries left out with the reason."""
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    dropped = {str(name): "no tensor" for name, value in state.items() if not isinstance(value, np.ndarray)}
    dropped.pop("StructuredToParameterName@@", None)  # Paddle's own list of parameter names
    if arrays and all(name.startswith(_DATA_PARALLEL_PREFIX) for name in arrays):
        arrays = {name[len(_DATA_PARALLEL_PREFIX) :]: array for name, array in arrays.items()}
    return arrays, dropped


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, np.ndarray) for item in value.values())


def _as_state(value: object) -> Mapping[str, object]:
    assert isinstance(value, Mapping)
    return value
