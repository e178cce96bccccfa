"""From what a file holds to one flat state: keys that wrap the weights, averaged weights, prefixes of the tensor names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from beit.checkpoint.canonical import State
from beit.checkpoint.key_format import KeyFormat
from beit.checkpoint.publishers import FORMATS, TEACHER_FORMATS, describe_unsupported, wraps_an_encoder
from beit.checkpoint.recognize import is_known, recognize
from beit.containers.errors import CheckpointError, listed
from beit.containers.paddle_files import NAME_TABLE

WEIGHT_KEYS = ("model", "module", "state_dict", "weights")
"""Keys under which training checkpoints hold the weights, in the order of the official loaders."""
TEACHER_KEYS = ("teacher", *WEIGHT_KEYS, "student")
"""The same for checkpoints of DINO, whose teacher is what is published."""
EMA_KEYS = ("model_ema", "state_dict_ema")
"""Keys under which training checkpoints hold the moving average (EMA) of the weights."""
CHOOSE = (
    "key=NAME (-opts MODEL.PRETRAINED_KEY NAME; of a tokenizer TOKENIZER.PRETRAINED_KEY, of its decoder "
    "TOKENIZER.PRETRAINED_DECODER_KEY, of a teacher TOKENIZER.TEACHER_PRETRAINED_KEY; convert --key NAME)"
)
"""How users choose among several states."""
_MAX_DEPTH = 8
"""Levels of dictionaries, and parts of a prefix, that are searched."""
_FEWEST_TENSORS = 8
"""A group of fewer tensors is not searched for a model: a file can have very many dictionaries and prefixes of one tensor."""


@dataclass(frozen=True)
class Found:
    """A state of a known publisher inside of a file."""

    keys: tuple[str, ...]  # of the dictionaries that hold it, from the outermost; empty at the top level
    prefix: str  # of its tensor names, with the last dot, or ""
    arrays: State  # without the prefix
    left_out: dict[str, str]  # other entries beside its tensors -> the reason for leaving them out
    key_format: KeyFormat

    @property
    def path(self) -> tuple[str, ...]:
        """Its place in the file: keys, and the parts of the prefix."""
        return (*self.keys, *self.prefix.split(".")[:-1])

    @property
    def name(self) -> str:
        """The name under which `choose` finds it."""
        return ".".join(self.path) or "the top level"


def find_states(contents: Mapping[str, object], *, teacher: bool = False) -> list[Found]:
    """The states of known publishers in a file: under any keys, with any prefix.

    Args:
        contents: of the file: nested dicts and lists of arrays.
        teacher: expect a vision transformer of CLIP or DINO instead of a BEiT.
    Raises:
        CheckpointError: it holds no tensors, or no known model; the message says what it holds instead.
    """
    formats = TEACHER_FORMATS if teacher else FORMATS
    found: list[Found] = []
    largest: State = {}
    for keys, tree in _dictionaries(contents, ()):
        arrays = {str(key): value for key, value in tree.items() if isinstance(value, np.ndarray)}
        if not arrays:
            continue
        largest = max(largest, arrays, key=len)
        others = {str(key): "no tensor" for key in tree if str(key) not in arrays and key != NAME_TABLE}
        for prefix, key_format in _prefixes(arrays, keys[-1] if keys else None, formats):
            state, left_out = _under(prefix, arrays, key_format)
            found.append(Found(keys, prefix, state, others | left_out, key_format))
    if not largest:
        raise CheckpointError(
            "the file holds no model weights: expected a state dict, at the top level or under any key; "
            f"its top-level keys are: {listed([str(key) for key in contents]) or 'none'}"
        )
    if not found:
        what, known = (
            ("a teacher", "CLIP or DINO") if teacher else ("a BEiT", "BEiT, VQ-KD, DALL-E or UPerNet")
        )
        raise CheckpointError(f"not {what} checkpoint: {describe_unsupported(largest, known)}")
    return found


def _dictionaries(
    tree: object, keys: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """The dictionary itself and those inside of it, also in lists, with the keys that lead to them."""
    if isinstance(tree, Mapping):
        yield keys, tree
    if len(keys) < _MAX_DEPTH and isinstance(tree, Mapping | list | tuple):
        for key, entry in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            if isinstance(entry, Mapping | list | tuple):
                yield from _dictionaries(entry, (*keys, str(key)))


def _prefixes(
    arrays: State, key: str | None, formats: Sequence[KeyFormat], prefix: str = ""
) -> Iterator[tuple[str, KeyFormat]]:
    """The shortest prefixes without which tensor names are those of a publisher, and the formats."""
    if len(arrays) < _FEWEST_TENSORS:
        return
    key_format = recognize(arrays, key, formats)
    if key_format is not None:
        yield prefix, key_format
    elif prefix.count(".") < _MAX_DEPTH and not wraps_an_encoder(arrays):
        groups: defaultdict[str, State] = defaultdict(dict)
        for name, array in arrays.items():
            first, dot, rest = name.partition(".")
            if dot:
                groups[first + dot][rest] = array
        for first, group in groups.items():
            yield from _prefixes(group, key, formats, prefix + first)


def _under(prefix: str, arrays: State, key_format: KeyFormat) -> tuple[State, dict[str, str]]:
    """The state under a prefix, and the tensors beside it with the reason for leaving them out.

    Tensors of the model that lack the prefix (`head.weight` beside `backbone.blocks.…`) are part of the state.
    """
    state = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    left_out: dict[str, str] = {}
    for name, array in arrays.items():
        if name.startswith(prefix):
            continue
        shared = prefix
        while not name.startswith(shared):
            shared = shared.rpartition(".")[0].rpartition(".")[0]
            shared += "." if shared else ""
        rest = name.removeprefix(shared)
        if rest not in state and is_known(rest, key_format):
            state[rest] = array
        else:
            left_out[name] = f"without the prefix {prefix}"
    return state, left_out


def choose(
    states: Sequence[Found], *, key: str | None, ema: bool | None, keys: Sequence[str] = WEIGHT_KEYS
) -> Found:
    """The state that `key` names; by default the weights or their average, whichever the publisher evaluates.

    Args:
        states: of the file.
        key: name of one of them, or a part of it between dots that no other name has.
        ema: True for the average, False for the weights themselves.
        keys: that hold the weights, by precedence.
    Raises:
        ValueError: both `key` and `ema` are given.
        CheckpointError: the file does not hold the state that is asked for, or holds several and none is asked for.
    """
    if key and ema is not None:
        raise ValueError(f"key={key!r} and ema={ema} both choose the weights: give one of them")
    if key:
        return _named(states, key)
    averages = _first(states, EMA_KEYS)
    others = [state for state in states if state is not averages]
    weights = _first(states, keys) or (others[0] if len(others) == 1 else None)
    if weights is None and others and not (ema and averages):
        raise CheckpointError(f"{_describe(states)}: choose one by {CHOOSE}")
    if ema and averages is None:
        more = f"; {_describe(states)}, choose one by {CHOOSE}" if len(states) > 1 else ""
        raise CheckpointError(
            f"the file holds no averaged weights (model_ema); leave the choice of EMA weights out{more}"
        )
    if ema is False and weights is None:
        raise CheckpointError("the file holds averaged weights only; ask for them (ema=True)")
    sample = weights or averages
    assert sample is not None  # there is at least one state
    wants_average = sample.key_format.prefers_ema if ema is None else ema
    return (averages or sample) if wants_average else sample


def is_average(state: Found) -> bool:
    """Whether a state is a moving average by its key."""
    return any(part in EMA_KEYS for part in state.path)


def _first(states: Sequence[Found], keys: Sequence[str]) -> Found | None:
    """The state under the first of `keys`, an outer one before an inner one; then, for the weights, the top level."""
    ranked: defaultdict[tuple[int, int], list[Found]] = defaultdict(list)
    for state in states:
        is_only_one = sum(other.keys == state.keys for other in states) == 1
        place = state.keys if is_only_one else state.path
        if place and place[-1] in keys:
            ranked[len(place), keys.index(place[-1])].append(state)
        elif not place and keys is not EMA_KEYS:
            ranked[1, len(keys)].append(state)
    first = ranked[min(ranked)] if ranked else []
    return first[0] if len(first) == 1 else None


def _named(states: Sequence[Found], key: str) -> Found:
    exact = [state for state in states if state.name == key]
    partial = [state for state in states if f".{key}." in f".{state.name}."]
    chosen = exact or partial
    if len(chosen) != 1:
        wrong = "several" if chosen else "none"
        raise CheckpointError(f"{_describe(states)}; {wrong} of them called {key!r}")
    return chosen[0]


def _describe(states: Sequence[Found]) -> str:
    noun = "state dict" if len(states) == 1 else "state dicts"
    return f"the file holds {len(states)} {noun}: {listed([state.name for state in states], limit=20)}"
