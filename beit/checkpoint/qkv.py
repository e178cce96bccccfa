"""Query, key and value: one fused Linear in the canonical form, three or another bias elsewhere. Pure functions."""

from __future__ import annotations

import numpy as np

from beit.checkpoint.canonical import State

_SPLIT = ("attn.q.weight", "attn.k.weight", "attn.v.weight")


def fuse_qkv(state: State) -> State:
    """State in which `attn.{q,k,v}.weight` `[D, D]` are one `attn.qkv.weight` `[D, 3D]`.

    Raises:
        ValueError: one of the three is missing.
    """
    result = {name: array for name, array in state.items() if not name.endswith(_SPLIT)}
    for stem in sorted({name[: -len("q.weight")] for name in state if name.endswith(_SPLIT)}):
        parts = [state.get(f"{stem}{part}.weight") for part in "qkv"]
        if any(part is None for part in parts):
            raise ValueError(
                f"{stem.removesuffix('.')} lacks its query, key or value weight: the file is incomplete"
            )
        result[f"{stem}qkv.weight"] = np.concatenate([part for part in parts if part is not None], axis=1)
    return result


def split_qkv(state: State) -> State:
    """The inverse of `fuse_qkv`."""
    result: State = {}
    for name, array in state.items():
        stem = name.removesuffix("qkv.weight")
        if name.endswith("attn.qkv.weight"):
            parts = np.split(array, 3, axis=1)
            result |= {f"{stem}{part}.weight": weight for part, weight in zip("qkv", parts, strict=True)}
        else:
            result[name] = array
    return result


def split_qkv_bias(state: State) -> tuple[State, list[str]]:
    """State in which a bias `[3D]` of `attn.qkv` is `q_bias` and `v_bias`, and the names whose key bias was not zero.

    The key bias may go: it adds the same number to all scores of a query, which softmax cancels.
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
