"""Low-rank adapters (LoRA): merging their factors, and files that hold only what differs from the base weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beit.checkpoint.canonical import State
from beit.containers.errors import CheckpointError, listed, shown

# I inputs and O outputs of a Linear layer, r rank

LORA_SCALE = "lora_scale"
FACTORS = ("lora_a", "lora_b", LORA_SCALE)
"""Tensors beside the weight `[I, O]` of an adapted layer: A `[I, r]`, B `[r, O]`, and the scalar alpha / r."""
HEADER = "adapter"
"""Key of the metadata of an adapter file."""


@dataclass(frozen=True)
class Adapter:
    """What an adapter file says of its base.

    Args:
        base: the base weights as the user named them: a path or a published name.
        path: of their file or folder at that time.
        key: of the state dict in that file, as in `load_pretrained`; "" for none.
        sha256: `digest` of the tensors that come from the base.
        tensors: their names.
    """

    base: str
    path: str
    key: str
    sha256: str
    tensors: tuple[str, ...]


def has_factors(state: Iterable[str]) -> bool:
    """Whether any of these tensor names belongs to a low-rank factor."""
    return any(name.rpartition(".")[2] in FACTORS for name in state)


def merge_factors(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with `weight + lora_scale * lora_a lora_b` in place of each adapted weight, and without factors.

    Source: LoRA, arXiv 2106.09685, eq. 3; the merged weights of the library PEFT.

    Args:
        state: arrays or tensors by name.

    Raises:
        CheckpointError: a factor or its weight is missing, or the shapes do not fit.
    """
    merged = {name: value for name, value in state.items() if name.rpartition(".")[2] not in FACTORS}
    for layer in dict.fromkeys(
        name.rpartition(".")[0] for name in state if name.rpartition(".")[2] in FACTORS
    ):
        names = [f"{layer}.{leaf}" for leaf in (*FACTORS, "weight")]
        absent = [name for name in names if name not in state]
        if absent:
            raise CheckpointError(f"LoRA factors of {shown(layer)} without {shown(absent[0])}")
        a, b, scale, weight = (state[name] for name in names)
        shapes = [list(value.shape) for value in (a, b, weight)]
        if any(len(shape) != 2 for shape in shapes) or shapes[2] != [shapes[0][0], shapes[1][1]]:
            raise CheckpointError(f"LoRA factors of {shown(layer)}: {shapes[:2]} do not fit {shapes[2]}")
        if shapes[0][1] != shapes[1][0] or int(np.prod(scale.shape)) != 1:
            raise CheckpointError(f"LoRA factors of {shown(layer)} are of different ranks: {shapes[:2]}")
        merged[f"{layer}.weight"] = weight + scale * (a @ b)
    return merged


def describe_base(state: State, base: State, *, name: str, path: Path, key: str) -> Adapter:
    """What an adapter file says of its base: its name and place, and the tensors that the trained model has unchanged.

    Args:
        state: of the model, with its LoRA factors.
        base: canonical state of the base weights.
        name, key: of the base, as `load_pretrained` takes them.
        path: of its file or folder.
    """
    same = tuple(
        tensor for tensor, value in state.items() if tensor in base and np.array_equal(value, base[tensor])
    )
    return Adapter(name, str(path.resolve()), key, digest(base, same), same)


def own_tensors(state: State, adapter: Adapter) -> State:
    """The tensors of a trained model that an adapter file holds: those that do not come from the base."""
    return {name: value for name, value in state.items() if name not in adapter.tensors}


def header_of(adapter: Adapter) -> dict[str, str]:
    """The metadata of an adapter file."""
    return {HEADER: json.dumps(asdict(adapter))}


def read_adapter(text: str) -> Adapter:
    """The adapter that the text under `HEADER` describes.

    Raises:
        CheckpointError: the text is not such a statement.
    """
    try:
        found = json.loads(text)
        adapter = Adapter(
            found["base"], found["path"], found["key"], found["sha256"], tuple(found["tensors"])
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        adapter = Adapter("", "", "", "", ())
    texts = (adapter.base, adapter.path, adapter.key, adapter.sha256, *adapter.tensors)
    if not all(isinstance(entry, str) for entry in texts) or not Path(adapter.path).name:
        raise CheckpointError("an adapter that does not state its base weights; write it again")
    return adapter


def complete(own: Mapping[str, Any], adapter: Adapter, base: State, place: str) -> dict[str, Any]:
    """The state of the adapted model: tensors of the adapter file and those of its base.

    Args:
        own: tensors of the file.
        adapter: its statement.
        base: canonical state of the base weights.
        place: where they are, for messages.

    Raises:
        CheckpointError: the base has other tensors than those that were adapted.
    """
    absent = [name for name in adapter.tensors if name not in base]
    if absent:
        raise CheckpointError(f"an adapter of other weights than {place}, which lack {listed(absent)}")
    found = digest(base, adapter.tensors)
    if found != adapter.sha256:
        raise CheckpointError(
            f"an adapter of other weights than {place}: the SHA-256 of their tensors is {found}, the adapter was trained "
            f"on {shown(adapter.sha256)}"
        )
    return {**{name: base[name] for name in adapter.tensors}, **own}


def digest(state: Mapping[str, np.ndarray], names: Iterable[str]) -> str:
    """SHA-256 of the named tensors, the same for files of any publisher with these weights."""
    total = hashlib.sha256()
    for name in sorted(names):
        array = state[name]
        total.update(f"{name} {array.dtype} {list(array.shape)}\n".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
