"""Query, key and value: one fused Linear in the canonical form, three Linears or another bias elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from beit.checkpoint.canonical import State
from beit.containers.errors import CheckpointError, shown

# D width


def fuse_qkv(state: Mapping[str, np.ndarray]) -> State:
    """State in which `attn.{q,k,v}.weight` `[D, D]` are one `attn.qkv.weight` `[D, 3D]`.

    Raises:
        CheckpointError: one of the three is missing, or their shapes differ.
    """
    separate = tuple(f"attn.{part}.weight" for part in "qkv")
    result = {name: array for name, array in state.items() if not name.endswith(separate)}
    for stem in sorted({name[: -len("q.weight")] for name in state if name.endswith(separate)}):
        parts = [state[name] for part in "qkv" if (name := f"{stem}{part}.weight") in state]
        if len(parts) != 3:
            raise CheckpointError(
                f"{shown(stem.removesuffix('.'))} lacks its query, key or value weight: the file is incomplete"
            )
        if parts[0].ndim != 2 or len({part.shape for part in parts}) != 1:
            found = ", ".join(str(list(part.shape)) for part in parts)
            raise CheckpointError(
                f"{shown(stem.removesuffix('.'))} has query, key and value weights of the shapes {found}: "
                "expected three equal matrices"
            )
        result[f"{stem}qkv.weight"] = np.concatenate(parts, axis=1)
    return result


def split_qkv(state: Mapping[str, np.ndarray]) -> State:
    """The inverse of `fuse_qkv`. Biases of query and value that are missing are zeros.

    Raises:
        CheckpointError: a weight is not a matrix of three equal parts.
    """
    result: State = {}
    for name, array in state.items():
        if name.endswith("attn.qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            parts = _thirds(name, array, 2)
            result |= {f"{stem}{part}.weight": weight for part, weight in zip("qkv", parts, strict=True)}
            biases = [f"{stem}q_bias", f"{stem}v_bias"]
            result |= {bias: np.zeros(parts[0].shape[1], array.dtype) for bias in biases if bias not in state}
        else:
            result[name] = array
    return result


def split_qkv_bias(state: Mapping[str, np.ndarray]) -> tuple[State, list[str]]:
    """State in which a bias `[3D]` of `attn.qkv` is `q_bias` and `v_bias`, and names of those with a non-zero key bias.

    The key bias can be left out: it adds the same number to all scores of a query, which softmax cancels.

    Raises:
        CheckpointError: a bias is not a vector of three equal parts.
    """
    result: State = {}
    nonzero = []
    for name, array in state.items():
        if not name.endswith("attn.qkv.bias"):
            result[name] = array
            continue
        stem = name.removesuffix("qkv.bias")
        result[f"{stem}q_bias"], key, result[f"{stem}v_bias"] = _thirds(name, array, 1)
        if np.any(key):
            nonzero.append(name)
    return result, nonzero


def _thirds(name: str, array: np.ndarray, axes: int) -> list[np.ndarray]:
    """Query, key and value parts of an array, split along its last axis. It must have this number of axes."""
    if array.ndim != axes or array.shape[-1] % 3:
        shape = "[D, 3D]" if axes == 2 else "[3D]"
        raise CheckpointError(f"tensor {shown(name)} has shape {list(array.shape)}, expected {shape}")
    return np.split(array, 3, axis=-1)
