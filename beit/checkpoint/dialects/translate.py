"""One engine for all tables: a publisher's tree to canonical state and back.

`to_canonical` and `from_canonical` know no publisher; what differs between them is in the tables (`FORMS`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from beit.checkpoint.canonical import (
    SEGMENTATION,
    Architecture,
    State,
    describe,
    is_canonical,
    is_linear_weight,
    kind_of,
    shapes_of,
    table_side,
)
from beit.checkpoint.dialects import dalle, huggingface, openmmlab, paddleclas, paddlevit, passl, unilm
from beit.checkpoint.dialects.form import Form, any_match, matches, rename, reverse
from beit.checkpoint.dialects.preprocessing import find_preprocessing
from beit.checkpoint.dialects.relatives import describe_stranger
from beit.checkpoint.dialects.unwrap import choose, find_states, flatten
from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.qkv import fuse_qkv, split_qkv, split_qkv_bias
from beit.positions import relative_position_index
from beit.preprocessing import Preprocessing

# The first form that fits is taken: distinctive names first, names shared by several publishers last.
FORMS: tuple[Form, ...] = (
    *huggingface.FORMS,
    *openmmlab.FORMS,
    *dalle.FORMS,
    *paddleclas.FORMS,
    *passl.FORMS,
    *paddlevit.FORMS,
    *unilm.FORMS,
)
PUBLISHERS = tuple(sorted({form.publisher for form in FORMS if form.writes}))

_HEADS = ("decode_head.", "auxiliary_head.")
_INDEX = "relative_position_index"
_INDEX_REASON = "index buffer, rebuilt from the grid"
_BATCH_NORM = (("*.running_mean", "*._mean"), ("*.running_var", "*._variance"))
_BATCH_COUNT = "num_batches_tracked"


@dataclass(frozen=True)
class DialectInfo:
    """What a checkpoint turned out to be, and what reading it meant.

    `dropped` maps names of the file to the reason; `unknown` are names that the form does not have; `transposed` are
    canonical names of weights that were stored (out, in); `casts` counts tensors per original number type; `feature_layers` are block outputs (from 0) a segmentation head was trained
    on and, for files of transformers, those that transformers feeds it.
    """

    publisher: str
    kind: str
    layout: str
    wrapper: str | None
    ema: bool
    architecture: Architecture
    preprocessing: Preprocessing
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    transposed: frozenset[str] = frozenset()
    casts: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    feature_layers: dict[str, tuple[int, ...]] = field(default_factory=dict)


def to_canonical(
    tree: Mapping[str, object],
    *,
    ema: bool | None = None,
    name: str = "",
    config: Mapping[str, object] | None = None,
) -> tuple[State, DialectInfo]:
    """Canonical state of a checkpoint of any publisher, and what it is.

    Args:
        tree: what the file holds: nested dicts of arrays. It is not changed; arrays are shared where possible.
        ema: take the averaged weights; None for what the publisher's own evaluation does.
        name: file name; for some classifiers the only place that tells BEiT v2 from v1.
        config: config.json beside the weights, if there is one.
    Raises:
        CheckpointError: not one of the known forms (the message says what it is instead), or unusable as it stands.
    """
    candidates = find_states(tree)
    sample, _ = flatten(candidates.weights if candidates.weights is not None else candidates.averaged or {})
    wrapper_of_sample = candidates.weights_key or candidates.averaged_key
    form = recognize(sample, wrapper_of_sample)
    chosen, wrapper, is_average = choose(candidates, ema, form.prefers_ema)
    arrays, dropped = flatten(chosen)

    state, left_out, unknown = _rename_all(arrays, form)
    dropped |= left_out
    layout = _layout_of(state) or form.layout
    state, casts = _cast(state)
    if layout == "torch":
        state = {key: value.T if is_linear_weight(key) else value for key, value in state.items()}
    state, with_key_bias = split_qkv_bias(fuse_qkv(state))
    notes = [f"{key}: the key bias is not zero; left out, softmax cancels it" for key in with_key_bias]
    kind = kind_of(shapes_of(state))
    if kind == SEGMENTATION:
        state = {key if key.startswith(_HEADS) else f"backbone.{key}": value for key, value in state.items()}
    notes += _fill_patch_bias(state) + _check_codebook(state)
    strangers = [key for key in state if not is_canonical(key, kind)]
    unknown += strangers
    for key in strangers:
        del state[key]
    architecture = describe(state, kind)
    info = DialectInfo(
        publisher=form.publisher,
        kind=kind,
        layout=layout,
        wrapper=wrapper,
        ema=is_average,
        architecture=architecture,
        preprocessing=find_preprocessing(form.publisher, kind, architecture, name, config or {}),
        dropped=dropped,
        unknown=tuple(unknown),
        transposed=frozenset(filter(is_linear_weight, state)) if layout == "torch" else frozenset(),
        casts=casts,
        notes=tuple(notes),
        feature_layers=_feature_layers(form.publisher, kind, architecture, config or {}),
    )
    return state, info


def from_canonical(state: Mapping[str, np.ndarray], publisher: str) -> dict[str, object]:
    """The tree that `publisher` would have written for this canonical state, wrapper and index buffers included.

    Raises:
        ValueError: unknown publisher, or one that has no such kind of model.
    """
    if publisher not in PUBLISHERS:
        raise ValueError(f"cannot write the form {publisher!r}; known: {', '.join(PUBLISHERS)}")
    kind = kind_of(shapes_of(state))
    form = next((f for f in FORMS if f.publisher == publisher and kind in f.kinds and f.writes), None)
    if form is None:
        able = sorted({f.publisher for f in FORMS if kind in f.kinds and f.writes})
        raise ValueError(f"{publisher} has no form for {kind} checkpoints; forms that do: {', '.join(able)}")
    bare = {
        key.removeprefix("backbone.") if kind == SEGMENTATION else key: array for key, array in state.items()
    }
    if form.splits_qkv:
        bare = split_qkv(bare)
    if form.has_index_buffers:
        bare |= _index_buffers(bare)
    written: State = {}
    for key, array in bare.items():
        name = rename(key, reverse(form.rules))
        if name is None:
            raise ValueError(f"{publisher} has no name for the tensor {key}")
        written[name] = array.T if form.layout == "torch" and is_linear_weight(key) else array
    if form.layout == "torch" and kind == SEGMENTATION:
        written = _torch_batch_norm(written)
    return {form.wrapper: written} if form.wrapper else dict(written)


def recognize(arrays: Mapping[str, np.ndarray], wrapper: str | None) -> Form:
    """The form of a flat state.

    Raises:
        CheckpointError: none; the message says what the file is, where the names tell.
    """
    for form in FORMS:
        if form.wrappers is not None and wrapper not in form.wrappers:
            continue
        if not all(any_match(pattern, arrays) for pattern in form.has):
            continue
        if any(any_match(pattern, arrays) for pattern in form.lacks):
            continue
        if form.recognized_by_layout and _layout_of(_rename_all(arrays, form)[0]) != form.layout:
            continue
        return form
    raise CheckpointError(f"not a BEiT checkpoint: {describe_stranger(arrays)}")


def _rename_all(arrays: Mapping[str, np.ndarray], form: Form) -> tuple[State, dict[str, str], list[str]]:
    """Canonical names (q, k, v still apart), what was left out with reasons, what has no place."""
    state: State = {}
    dropped: dict[str, str] = {}
    unknown: list[str] = []
    for name, array in arrays.items():
        known = name
        while (other := rename(known, form.aliases)) is not None:
            known = other
        reason = next((why for pattern, why in form.drops if matches(pattern, known)), None)
        if known.endswith(_INDEX):
            reason = _INDEX_REASON
        elif known.endswith(_BATCH_COUNT):
            reason = "counter without use outside Torch"
        canonical = rename(known, form.rules)
        if reason is not None:
            dropped[name] = reason
        elif canonical is None:
            unknown.append(name)
        else:
            state[rename(canonical, _BATCH_NORM) or canonical] = array
    return state, dropped, unknown


def _layout_of(state: Mapping[str, np.ndarray]) -> str | None:
    """ "paddle" (in, out) or "torch" (out, in), by the first Linear weight whose shape tells."""
    for name, array in state.items():
        block, _, inner = name.rpartition(".attn.qkv.")
        if not inner:
            block, _, inner = name.rpartition(".mlp.fc1.")
        norm = state.get(f"{block}.norm1.weight")
        if inner != "weight" or array.ndim != 2 or norm is None or array.shape[0] == array.shape[1]:
            continue
        if norm.shape[0] in array.shape:
            return "paddle" if array.shape[0] == norm.shape[0] else "torch"
    return None


def _cast(state: State) -> tuple[State, dict[str, int]]:
    """float32 arrays, and how many were of another type. bfloat16 comes as uint16 where Paddle wrote it."""
    casts: Counter[str] = Counter()
    result: State = {}
    for name, array in state.items():
        if array.dtype == np.float32:
            result[name] = array
        elif array.dtype == np.uint16:
            casts["bfloat16"] += 1
            result[name] = (array.astype(np.uint32) << 16).view(np.float32)
        else:
            casts[str(array.dtype)] += 1
            result[name] = array.astype(np.float32)
    return result, dict(casts)


def _fill_patch_bias(state: State) -> list[str]:
    """PaddleClas leaves out the bias of the patch embedding."""
    for prefix in ("", "backbone."):
        weight = state.get(f"{prefix}patch_embed.proj.weight")
        if weight is not None and f"{prefix}patch_embed.proj.bias" not in state:
            state[f"{prefix}patch_embed.proj.bias"] = np.zeros(weight.shape[0], np.float32)
            return ["patch_embed.proj.bias is not in the file: zeros"]
    return []


def _check_codebook(state: State) -> list[str]:
    initted = state.get("quantize.embedding.initted")
    if initted is not None and not np.all(initted):
        raise CheckpointError(
            "the codebook of this tokenizer was never initialized (quantize.embedding.initted is 0): its tokens "
            "would mean nothing; take a trained tokenizer"
        )
    return []


def _index_buffers(state: State) -> State:
    """Index buffers beside every table of a square grid."""
    buffers: State = {}
    for name, table in state.items():
        stem, _, last = name.rpartition(".")
        side = table_side(table.shape[0]) if last == "relative_position_bias_table" else 0
        if side:
            buffers[f"{stem}.{_INDEX}"] = relative_position_index((side, side))
    return buffers


def _torch_batch_norm(written: State) -> State:
    result: State = {}
    for name, array in written.items():
        result[rename(name, reverse(_BATCH_NORM)) or name] = array
        if name.endswith("._variance"):
            result[name.replace("._variance", f".{_BATCH_COUNT}")] = np.zeros((), np.int64)
    return result


def _feature_layers(
    publisher: str, kind: str, architecture: Architecture, config: Mapping[str, object]
) -> dict[str, tuple[int, ...]]:
    """Blocks (from 0) after which a segmentation head takes its features."""
    if kind != SEGMENTATION:
        return {}
    # unilm/beit/semantic_segmentation/configs: 3, 5, 7, 11 of 12 blocks and 7, 11, 15, 23 of 24.
    trained = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}.get(architecture.depth, ())
    if publisher != "huggingface":
        return {"trained": trained} if trained else {}
    listed = config.get("out_indices", config.get("segmentation_indices"))
    indices = tuple(int(i) for i in listed) if isinstance(listed, list | tuple) else trained
    # Hidden state k, the output of block k - 1, is kept when k + 1 is listed: transformers, BeitForSemanticSegmentation.forward.
    return {"trained": indices, "huggingface": tuple(i - 2 for i in indices)} if indices else {}
