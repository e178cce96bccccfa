"""From what a file holds to one flat state: keys that wrap the weights, averaged weights, prefixes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from beit.checkpoint.canonical import State
from beit.containers.errors import CheckpointError
from beit.containers.paddle_files import NAME_TABLE

WEIGHT_KEYS = ("model", "module", "state_dict", "weights")
"""Keys under which training checkpoints hold the weights, in the order of the official loaders."""
TEACHER_KEYS = ("teacher", *WEIGHT_KEYS, "student")
"""The same for checkpoints of DINO, whose teacher is what is published."""
EMA_KEYS = ("model_ema", "state_dict_ema")
"""Keys under which training checkpoints hold the moving average (EMA) of the weights."""
_DATA_PARALLEL_PREFIX = "module."


class Wrapped(NamedTuple):
    """A state inside of a file, and the key that holds it; None at the top level."""

    key: str | None
    state: Mapping[str, object]


def find_states(contents: Mapping[str, object], keys: tuple[str, ...] = WEIGHT_KEYS) -> dict[bool, Wrapped]:
    """The states in a file: under True the moving average of the weights, under False the weights themselves.

    Args:
        contents: of the file: nested dicts of arrays.
        keys: under which the weights may stand.
    Raises:
        CheckpointError: there is no tensor in it.
    """
    states: dict[bool, Wrapped] = {}
    for is_average, candidates in ((False, (*keys, None)), (True, EMA_KEYS)):
        for key in candidates:
            state = contents if key is None else contents.get(key)
            if isinstance(state, Mapping) and any(isinstance(item, np.ndarray) for item in state.values()):
                states[is_average] = Wrapped(key, state)
                break
    if not states:
        raise CheckpointError(
            f"the file holds no model weights: expected tensors, or tensors under one of {', '.join((*keys, *EMA_KEYS))}; "
            f"its top-level keys are: {', '.join(map(str, [*contents][:8])) or 'none'}"
        )
    return states


def choose(states: Mapping[bool, Wrapped], ema: bool | None, prefers_ema: bool) -> bool:
    """Whether to take the moving average: as the user asks by `ema`, or else as the publisher evaluates.

    Raises:
        CheckpointError: the file does not hold the state that `ema` asks for.
    """
    if ema is not None and ema not in states:
        raise CheckpointError(
            "the file holds no averaged weights (model_ema); leave the choice of EMA weights out"
            if ema
            else "the file holds averaged weights only; ask for them (ema=True)"
        )
    wanted = prefers_ema if ema is None else ema
    return wanted if wanted in states else not wanted


def flatten(state: Mapping[str, object]) -> tuple[State, dict[str, str]]:
    """Arrays by name without the prefix of data parallel models, and the entries left out with the reason."""
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    dropped = {str(name): "no tensor" for name in state if name not in arrays and name != NAME_TABLE}
    if arrays and all(name.startswith(_DATA_PARALLEL_PREFIX) for name in arrays):
        arrays = {name[len(_DATA_PARALLEL_PREFIX) :]: array for name, array in arrays.items()}
    return arrays, dropped
