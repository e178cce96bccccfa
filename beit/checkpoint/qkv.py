"""Query, key and value: one fused Linear in the canonical form, three Linears or another bias elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from beit.checkpoint.canonical import State

# D width


def fuse_qkv(state: Mapping[str, np.ndarray]) -> State:
    """State in which `attn.{q,k,v}.weight` `[D, D]` are one `attn.qkv.weight` `[D, 3D]`.

    Raises:
        ValueError: one of the three is missing.
    """
    separate = tuple(f"attn.{part}.weight" for part in "qkv")
    result = {name: array for name, array in state.items() if not name.endswith(separate)}
    for stem in sorted({name[: -len("q.weight")] for name in state if name.endswith(separate)}):
        parts = [state[name] for part in "qkv" if (name := f"{stem}{part}.weight") in state]
        if len(parts) != 3:
            raise ValueError(
                f"{stem.removesuffix('.')} lacks its query, key or value weight: the file is incomplete"
            )
        result[f"{stem}qkv.weight"] = np.concatenate(parts, axis=1)
    return result


def split_qkv(state: Mapping[str, np.ndarray]) -> State:
    """The inverse of `fuse_qkv`. Biases of query and value that are missing are zeros."""
    result: State = {}
    for name, array in state.items():
        if name.endswith("attn.qkv.weight"):
            stem = name.removesuffix("qkv.weight")
            parts = np.split(array, 3, axis=1)
            result |= {f"{stem}{part}.weight": weight for part, weight in zip("qkv", parts, strict=True)}
            biases = [f"{stem}q_bias", f"{stem}v_bias"]
            result |= {bias: np.zeros(parts[0].shape[1], array.dtype) for bias in biases if bias not in state}
        else:
            result[name] = array
    return result


def split_qkv_bias(state: Mapping[str, np.ndarray]) -> tuple[State, list[str]]:
    """State in which a bias `[3D]` of `attn.qkv` is `q_bias` and `v_bias`, and names of those with a non-zero key bias.

    The key bias can be left out: it adds the same number to all scores of a query, which softmax cancels.
    """
    result: State = {}
    nonzero = []
    for name, array in state.items():
        if not name.endswith("attn.qkv.bias"):
            result[name] = array
            continue
        stem = name.removesuffix("qkv.bias")
        result[f"{stem}q_bias"], key, result[f"{stem}v_bias"] = np.split(array, 3)
        if np.any(key):
            nonzero.append(name)
    return result, nonzero
