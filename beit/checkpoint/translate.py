"""Translates between the files of any publisher and the canonical form, by the tables of `beit.checkpoint.publishers`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from beit.checkpoint.adapter import merge_factors
from beit.checkpoint.canonical import (
    BACKBONE_PREFIX,
    TABLE,
    State,
    describe,
    is_canonical,
    is_linear_weight,
    kind_of,
    missing_names,
    segmentation_name,
    shapes_of,
)
from beit.checkpoint.files import Contents
from beit.checkpoint.key_format import KeyFormat, rename, reverse
from beit.checkpoint.publishers import FORMATS, PUBLISHERS
from beit.checkpoint.qkv import fuse_qkv, split_qkv, split_qkv_bias
from beit.checkpoint.recognize import BATCH_COUNT, BATCH_NORM, INDEX_BUFFER, layout_of, rename_all
from beit.checkpoint.shapes import check_shapes
from beit.checkpoint.unwrap import CHOOSE, TEACHER_KEYS, WEIGHT_KEYS, choose, find_states, is_average
from beit.containers.arrays import widen_bfloat16
from beit.containers.errors import CheckpointError, listed, shown
from beit.metadata.architecture import SEGMENTATION
from beit.metadata.files import Metadata, stated_sizes
from beit.metadata.info import ModelInfo, model_info
from beit.metadata.stated import stated_model
from beit.positions import Grid, index_grid, num_table_rows, relative_position_index, table_side


@dataclass(frozen=True)
class CheckpointInfo(ModelInfo):
    """What a checkpoint is, and what was done to read it."""

    container: str  # file type, see `files.Contents`, or "memory"
    wrapper: str | None  # key that holds the state, keys of nested dicts with dots; None at the top level
    ema: bool  # whether the state is the moving average of the weights
    dropped: dict[str, str]  # name in the file -> reason for leaving it out
    unknown: tuple[str, ...]  # names that the publisher's format does not have
    transposed: frozenset[str]  # canonical names of weights that were stored (out, in)
    dtype_casts: dict[str, int]  # data type in the file -> number of tensors, which are float32 now
    notes: tuple[str, ...]  # sentences for the report
    left_out: tuple[str, ...]  # classes of objects in the file that are not read, see `files.Contents`


class Checkpoint(NamedTuple):
    """A checkpoint in canonical form."""

    state: State
    info: CheckpointInfo

    def require_complete(self) -> None:
        """Raise ValueError if tensors are missing that a model of this kind has."""
        if missing := missing_names(self.state, self.info.kind):
            raise ValueError(f"{self.info.title} lacks {listed(missing)}: the file is incomplete")


def to_canonical(
    contents: Contents,
    name: str,
    metadata: Metadata,
    *,
    ema: bool | None = None,
    key: str | None = None,
    teacher: bool = False,
) -> Checkpoint:
    """The canonical form of a checkpoint of any publisher.

    Args:
        contents: of the file. They are not changed; arrays are shared where possible.
        name: of the file; for some classifiers the only evidence of BEiT v1 or v2.
        metadata: what is known beside the tensors.
        ema: take the averaged weights; None for what the publisher's own evaluation does.
        key: take the state dict under this key of the file, or with this prefix; nested keys with dots between them.
        teacher: expect a vision transformer of CLIP or DINO instead of a BEiT.
    Raises:
        CheckpointError: not one of the known formats (the message says what it is instead), or unusable as it is.
    """
    metadata = metadata._replace(stated={"meta": contents.tree.get("meta"), **metadata.stated})
    states = find_states(contents.tree, teacher=teacher)
    chosen = choose(states, key=key, ema=ema, keys=TEACHER_KEYS if teacher else WEIGHT_KEYS)
    arrays, key_format = merge_factors(chosen.arrays), chosen.key_format

    found = _rename_and_turn(arrays, key_format)
    state, kind = found.state, found.kind
    check_shapes(shapes_of(state), kind)
    _check_codebook(state)
    buffers = (index_grid(array) for name, array in arrays.items() if name.endswith(INDEX_BUFFER))
    grids = [grid for grid in (next(buffers, None),) if grid]
    sizes, num_heads = stated_sizes(metadata.stated), stated_model(metadata.stated).num_heads
    architecture = describe(shapes_of(state), kind, grids=grids, sizes=sizes, num_heads=num_heads)
    known, sentences = model_info(name, key_format.publisher, kind, architecture, metadata)
    notes = [f"the prefix {shown(chosen.prefix)} of the tensor names is stripped"] if chosen.prefix else []
    notes += [*found.notes, *sentences]
    if len(states) > 1:
        others = listed([other.name for other in states if other is not chosen])
        notes.append(f"the file also holds the weights {others}: choose them by {CHOOSE}")
    info = CheckpointInfo(
        **vars(known),
        container=contents.container,
        wrapper=".".join(chosen.keys) or None,
        ema=is_average(chosen),
        dropped=chosen.left_out | found.dropped,
        unknown=tuple(found.unknown),
        transposed=found.transposed,
        dtype_casts=found.dtype_casts | Counter(contents.dtypes_cast.values()),
        notes=(*notes, *metadata.notes),
        left_out=contents.left_out,
    )
    return Checkpoint(state, info)


def written_format(publisher: str, kind: str) -> KeyFormat:
    """The format in which `publisher` writes models of a kind.

    Raises:
        ValueError: unknown publisher, or one that has no such kind of model.
    """
    if publisher not in PUBLISHERS:
        raise ValueError(f"cannot write the format of {publisher!r}; known: {', '.join(PUBLISHERS)}")
    formats = {
        row.publisher: row for row in FORMATS if kind in (row.kinds if row.written is None else row.written)
    }
    if publisher not in formats:
        raise ValueError(
            f"{publisher} has no format for {kind} checkpoints; publishers that do: {', '.join(sorted(formats))}"
        )
    return formats[publisher]


def from_canonical(
    state: Mapping[str, np.ndarray], publisher: str, grid: Grid | None = None
) -> dict[str, object]:
    """The contents of the file that `publisher` would write for this canonical state, with wrapper and index buffers.

    Args:
        state: canonical.
        publisher: whose names, layout and wrapper to use.
        grid: (h, w) of the position tables in patches; None for a square one.
    Raises:
        ValueError: unknown publisher, one that has no such kind of model, or position tables of another grid.
    """
    kind = kind_of(shapes_of(state))
    key_format = written_format(publisher, kind)
    if kind == SEGMENTATION:
        state = {name.removeprefix(BACKBONE_PREFIX): array for name, array in state.items()}
    if key_format.splits_qkv:
        state = split_qkv(state)
    if key_format.has_index_buffers:
        state = {**state, **_index_buffers(state, grid)}
    written: State = {}
    for name, array in state.items():
        theirs = rename(name, reverse(key_format.rules))
        if theirs is None:
            raise ValueError(f"{publisher} has no name for the tensor {shown(name)}")
        if key_format.leaves_out(name):
            continue
        written[theirs] = array.T if key_format.layout == "torch" and is_linear_weight(name) else array
    if key_format.layout == "torch":
        written = _torch_batch_norm(written)
    return {key_format.wrapper: written} if key_format.wrapper else dict(written)


class _Renamed(NamedTuple):
    """A state with canonical names and layout; the rest is as in `CheckpointInfo`."""

    state: State
    kind: str
    dropped: dict[str, str]
    unknown: list[str]
    transposed: frozenset[str]
    dtype_casts: Counter[str]
    notes: list[str]


def _rename_and_turn(arrays: Mapping[str, np.ndarray], key_format: KeyFormat) -> _Renamed:
    """The arrays of a publisher under canonical names: float32, linear weights (in, out), nothing but known names."""
    state, dropped, unknown = rename_all(arrays, key_format)
    is_torch = (layout_of(state) or key_format.layout) == "torch"
    state, casts = _as_float32(state)

    def is_transposed(name: str) -> bool:
        return is_torch and is_linear_weight(name) and name not in key_format.untransposed

    state = {name: array.T if is_transposed(name) else array for name, array in state.items()}
    state, with_key_bias = split_qkv_bias(fuse_qkv(state))
    notes = [
        f"{shown(name)}: the key bias is not zero; left out, softmax cancels it" for name in with_key_bias
    ]
    kind = key_format.kinds[0] if len(key_format.kinds) == 1 else kind_of(shapes_of(state))
    if kind == SEGMENTATION:
        state = {segmentation_name(name): array for name, array in state.items()}
    notes += _complete(state)
    unknown += [name for name in state if not is_canonical(name, kind)]
    state = {name: array for name, array in state.items() if is_canonical(name, kind)}
    return _Renamed(state, kind, dropped, unknown, frozenset(filter(is_transposed, state)), casts, notes)


def _as_float32(state: State) -> tuple[State, Counter[str]]:
    """The state in float32, and how many arrays had another type. Paddle hands out bfloat16 as uint16.

    Raises:
        CheckpointError: an array holds something else than real numbers.
    """
    casts: Counter[str] = Counter()
    result: State = {}
    for name, array in state.items():
        if array.dtype == np.uint16:
            casts["bfloat16"] += 1
            array = widen_bfloat16(array)
        elif array.dtype.kind not in "fiub":
            raise CheckpointError(f"tensor {shown(name)} is of {array.dtype}, not of real numbers")
        elif array.dtype != np.float32:
            casts[str(array.dtype)] += 1
            with np.errstate(over="ignore"):  # infinities are reported by name
                array = array.astype(np.float32)
        result[name] = array
    return result, casts


def _complete(state: State) -> list[str]:
    """Add to `state` what some publishers leave out: axes of size 1, the bias of the patch embedding. Returns notes."""
    for name in ("cls_token", "pos_embed"):  # [D] and [N, D] in CLIP
        if name in state:
            state[name] = state[name].reshape((1,) * (3 - state[name].ndim) + state[name].shape)
    for prefix in ("", BACKBONE_PREFIX):  # PaddleClas and CLIP have no bias
        weight = state.get(f"{prefix}patch_embed.proj.weight")
        if weight is not None and f"{prefix}patch_embed.proj.bias" not in state:
            state[f"{prefix}patch_embed.proj.bias"] = np.zeros(weight.shape[:1], np.float32)
            return ["patch_embed.proj.bias is not in the file: zeros"]
    return []


def _check_codebook(state: State) -> None:
    initted = state.get("quantize.embedding.initted")
    if initted is not None and not np.all(initted):
        raise CheckpointError(
            "the codebook of this tokenizer was never initialized (quantize.embedding.initted is 0): its tokens "
            "would mean nothing; take a trained tokenizer"
        )


def _index_buffers(state: Mapping[str, np.ndarray], grid: Grid | None) -> State:
    """An index buffer beside every position table. They are one array."""
    tables = {name: table.shape[0] for name, table in state.items() if name.endswith(f".{TABLE}")}
    if not tables:
        return {}
    rows = next(iter(tables.values()))
    grid = grid or (table_side(rows),) * 2
    if {num_table_rows(grid)} != set(tables.values()):
        raise ValueError(
            f"position tables of {rows} rows are not those of a grid of {grid[0]} x {grid[1]} patches"
        )
    index = relative_position_index(grid)
    return {name.removesuffix(TABLE) + INDEX_BUFFER: index for name in tables}


def _torch_batch_norm(written: State) -> State:
    result: State = {}
    for name, array in written.items():
        result[rename(name, reverse(BATCH_NORM)) or name] = array
        if name.endswith("._variance"):
            result[name.replace("._variance", f".{BATCH_COUNT}")] = np.zeros((), np.int64)
    return result
