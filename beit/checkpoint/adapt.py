"""Edits that make a canonical state fit another model: resize tables, share to per block, drop heads.

Source: unilm/beit/run_class_finetuning.py L327-430 (what the official fine-tuning does to a pre-trained file).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from beit.checkpoint.canonical import (
    BACKBONE_PREFIX,
    FEATURE_PYRAMID,
    SEGMENTATION_HEADS,
    SHARED_TABLE,
    TABLE,
    State,
    depth_of,
    kind_of,
    segmentation_name,
    shapes_of,
)
from beit.checkpoint.shapes import check_shapes
from beit.metadata.architecture import (
    BACKBONE,
    CLASSIFIER,
    DALLE,
    DALLE_DECODER,
    DALLE_ENCODER,
    MIM,
    MIM_V1,
    MIM_V2,
    SEGMENTATION,
    VQKD,
)
from beit.positions import (
    Grid,
    Interpolation,
    num_table_rows,
    positions_side,
    resample_patch_embedding,
    resize_absolute_position,
    resize_relative_position_bias,
    table_side,
)

Shapes = Mapping[str, tuple[int, ...]]
Grids = tuple[Grid | None, Grid | None]  # (h, w) in patches, of the file and of the model

_DESCRIPTIONS = {
    CLASSIFIER: "BEiT classifier",
    BACKBONE: "BEiT encoder",
    MIM_V1: "BEiT masked image model",
    MIM_V2: "BEiT v2 masked image model",
    VQKD: "VQ-KD tokenizer",
    DALLE_ENCODER: "DALL-E encoder",
    DALLE_DECODER: "DALL-E decoder",
    SEGMENTATION: "BEiT with UPerNet",
}
_BEIT = (CLASSIFIER, BACKBONE, *MIM, SEGMENTATION)  # kinds that share the encoder
_FINAL_NORM = ("norm.", "fc_norm.")
_PRETRAINING_ONLY = "used in pre-training only"


@dataclass
class Changes:
    """What adaptation did, by tensor name: `resized` with both shapes, `dropped` and `new` with the reason."""

    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)

    def drop(self, state: State, prefixes: tuple[str, ...], reason: str) -> State:
        """`state` without the tensors whose names begin with one of `prefixes`."""
        self.dropped |= {name: reason for name in state if name.startswith(prefixes)}
        return {name: array for name, array in state.items() if not name.startswith(prefixes)}


def adapt(
    state: State,
    shapes: Shapes,
    *,
    source_grid: Grid | None = None,
    grid: Grid | None = None,
    interpolation: Interpolation = "geometric",
) -> tuple[State, Changes]:
    """The state as a model with tensors of these `shapes` can take it; whether all fits is for the caller to check.

    Args:
        state: canonical; not changed.
        shapes: of the model's tensors by canonical name.
        source_grid, grid: (h, w) of the file and of the model in patches; None for square ones that follow from their
            tables.
        interpolation: of relative position tables.
    Raises:
        ValueError: the file holds another kind of network than the model.
        CheckpointError: the shapes of the state contradict its names or each other.
    """
    source, target = kind_of(shapes_of(state)), kind_of(shapes)
    check_shapes(shapes_of(state), source)
    if source != target and not (source in _BEIT and target in _BEIT):
        raise ValueError(
            f"the file holds a {_DESCRIPTIONS[source]}, the model is a {_DESCRIPTIONS[target]}: take a file of its kind"
        )
    changes = Changes()
    if source in DALLE:
        return state, changes
    if source == VQKD:
        return _adapt_tokenizer(state, shapes, (source_grid, grid), changes), changes
    bare = {name.removeprefix(BACKBONE_PREFIX): array for name, array in state.items()}
    wanted = {name.removeprefix(BACKBONE_PREFIX): shape for name, shape in shapes.items()}
    if source != target:
        bare = _change_kind(bare, source, target, wanted, changes)
    own = f"blocks.0.attn.{TABLE}"
    if SHARED_TABLE in bare and own in wanted and own not in bare:
        depth = depth_of(wanted)
        bare = expand_shared_bias(bare, depth)
        changes.resized[SHARED_TABLE] = f"copied to each of {depth} blocks"
    bare = _resize_all(bare, wanted, (source_grid, grid), interpolation, changes)
    if "mask_token" not in wanted:
        bare = changes.drop(bare, ("mask_token",), _PRETRAINING_ONLY)
    if not any(name.startswith(_FINAL_NORM) for name in wanted):
        bare = changes.drop(bare, _FINAL_NORM, "the model returns tokens before the final norm")
    if source == BACKBONE and not any(name.startswith(_FINAL_NORM) for name in bare):
        fresh = [name for name in wanted if name.startswith(_FINAL_NORM)]
        changes.new |= dict.fromkeys(fresh, "the file has tokens before the final norm")
    if "fpn1.0.weight" not in wanted:
        bare = changes.drop(bare, FEATURE_PYRAMID, "the model has no feature pyramid")
    bare = _drop_other_classes(bare, wanted, changes)
    if target == SEGMENTATION:
        bare = {segmentation_name(name): array for name, array in bare.items()}
    return bare, changes


def expand_shared_bias(state: State, depth: int) -> State:
    """State in which each of `depth` blocks has its own copy of the shared relative position table."""
    result = {name: array for name, array in state.items() if name != SHARED_TABLE}
    return result | {f"blocks.{i}.attn.{TABLE}": state[SHARED_TABLE].copy() for i in range(depth)}


def _change_kind(bare: State, source: str, target: str, wanted: Shapes, changes: Changes) -> State:
    """Drop the heads of the source's task, declare those of the target's new."""
    if source in MIM and target not in MIM:
        bare = changes.drop(bare, ("lm_head.", "cls_pt_"), _PRETRAINING_ONLY)
        # The final norm of pre-training acts on every token. A classifier of the class token keeps it; fc_norm, which
        # acts on the mean of the patch tokens, starts fresh.
        if "norm.weight" not in wanted:
            bare = changes.drop(bare, ("norm.",), "norm of pre-training; it does not become fc_norm")
    if source in MIM and target == MIM_V1:
        bare = changes.drop(bare, ("cls_pt_",), "patch aggregation of BEiT v2, which the model does not have")
    if source == SEGMENTATION:
        bare = changes.drop(bare, SEGMENTATION_HEADS, "segmentation head")
    if target == SEGMENTATION:
        bare = changes.drop(
            bare,
            ("head.", "norm.", "fc_norm.", "mask_token"),
            "segmentation takes block outputs: no norm, no classifier",
        )
        parts = (*SEGMENTATION_HEADS, *FEATURE_PYRAMID)
        fresh = [name for name in wanted if name.startswith(parts) and name not in bare]
        changes.new |= dict.fromkeys(map(segmentation_name, fresh), "the file has no segmentation head")
        return bare
    if "head.weight" not in wanted:
        bare = changes.drop(bare, ("head.",), "the model has no classification head")
    if target in (CLASSIFIER, BACKBONE):
        # Only an encoder without head has the classifier's final norm to give.
        prefixes = ("head.",) if source in (CLASSIFIER, BACKBONE) else ("head.", "fc_norm.", "norm.")
        fresh = [name for name in wanted if name.startswith(prefixes) and name not in bare]
        changes.new |= dict.fromkeys(fresh, f"the file is a {_DESCRIPTIONS[source]}")
    return bare


def _adapt_tokenizer(state: State, shapes: Shapes, grids: Grids, changes: Changes) -> State:
    """A VQ-KD without its decoder if the model only encodes, its absolute positions at the model's grid."""
    result = dict(state)
    if "decode_task_layer.0.weight" not in shapes:
        result = changes.drop(result, ("decoder.", "decode_task_layer."), "the model encodes only")
    for part in ("encoder.", "decoder."):
        inner = {name[len(part) :]: array for name, array in result.items() if name.startswith(part)}
        target = {name[len(part) :]: shape for name, shape in shapes.items() if name.startswith(part)}
        own = Changes()
        result |= {part + name: a for name, a in _resize_all(inner, target, grids, "geometric", own).items()}
        changes.resized |= {part + name: what for name, what in own.resized.items()}
    return result


def _resize_all(
    bare: State, target: Shapes, grids: Grids, interpolation: Interpolation, changes: Changes
) -> State:
    """Tables, absolute positions and the patch embedding at the model's size."""
    result = dict(bare)
    for name, array in bare.items():
        shape = target.get(name)
        if shape is None or len(shape) != array.ndim:
            continue
        if name.endswith(TABLE) and shape[1] == array.shape[1]:
            here, goal = _pair(grids, table_side(array.shape[0]), table_side(shape[0]))
            fits = num_table_rows(here) == array.shape[0] and num_table_rows(goal) == shape[0]
            if fits and here != goal:
                result[name] = resize_relative_position_bias(array, here, goal, interpolation)
        elif name == "pos_embed" and shape[2] == array.shape[2]:
            here, goal = _pair(grids, positions_side(array.shape[1]), positions_side(shape[1]))
            fits = here[0] * here[1] + 1 == array.shape[1] and goal[0] * goal[1] + 1 == shape[1]
            if fits and here != goal:
                result[name] = resize_absolute_position(array, here, goal)
        elif name == "patch_embed.proj.weight" and shape[:2] == array.shape[:2] and shape != array.shape:
            result[name] = resample_patch_embedding(array, shape[-1])
        if result[name] is not array:
            changes.resized[name] = f"{list(array.shape)} to {list(result[name].shape)}"
    return result


def _pair(grids: Grids, side: int, goal: int) -> tuple[Grid, Grid]:
    """The two grids, each square of the given side if it is not known."""
    return grids[0] or (side, side), grids[1] or (goal, goal)


def _drop_other_classes(bare: State, target: Shapes, changes: Changes) -> State:
    """The state without those heads that differ from the model's in the number of classes only."""
    for head in ("head.", *(f"{part}conv_seg." for part in SEGMENTATION_HEADS)):
        weight, shape = bare.get(f"{head}weight"), target.get(f"{head}weight")
        if weight is None or shape is None or weight.ndim != len(shape):
            continue
        axis = 1 if head == "head." else 0  # of the classes: a Linear, or a convolution
        if [i for i in range(weight.ndim) if weight.shape[i] != shape[i]] == [axis]:
            reason = f"{weight.shape[axis]} classes in the file, {shape[axis]} in the model"
            changes.new |= {name: reason for name in bare if name.startswith(head)}
            bare = changes.drop(bare, (head,), reason)
    return bare
