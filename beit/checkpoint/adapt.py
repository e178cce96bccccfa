"""Edits that make a canonical state fit another model: pure functions, state in, state out.

Source: unilm/beit/run_class_finetuning.py L327-430 (what the official fine-tuning does to a pre-trained file).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from beit.checkpoint.canonical import (
    BACKBONE,
    CLASSIFIER,
    DALLE,
    MIM,
    MIM_V1,
    SEGMENTATION,
    VQKD,
    State,
    depth_of,
    kind_of,
    shapes_of,
    table_side,
)
from beit.positions import (
    Grid,
    Interpolation,
    num_table_rows,
    resample_patch_embedding,
    resize_absolute_position,
    resize_relative_position_bias,
)

Shapes = Mapping[str, tuple[int, ...]]

SHARED_TABLE = "rel_pos_bias.relative_position_bias_table"
TABLE = "relative_position_bias_table"
BACKBONE_PREFIX = "backbone."
_SEGMENTATION_HEADS = ("decode_head.", "auxiliary_head.", "fpn1.", "fpn2.")
_PRETRAINING_HEADS = ("lm_head.", "mask_token", "cls_pt_")


@dataclass
class Changes:
    """What adaptation did, by tensor name: `resized` with both shapes, `dropped` and `new` with the reason."""

    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)


def expand_shared_bias(state: State, depth: int) -> State:
    """State in which each of `depth` blocks owns a copy of the shared relative position table.

    Raises:
        ValueError: there is no shared table.
    """
    if SHARED_TABLE not in state:
        raise ValueError(f"the state has no shared relative position table ({SHARED_TABLE})")
    result = {name: array for name, array in state.items() if name != SHARED_TABLE}
    for i in range(depth):
        result[f"blocks.{i}.attn.{TABLE}"] = state[SHARED_TABLE].copy()
    return result


def drop(state: State, prefixes: tuple[str, ...]) -> tuple[State, list[str]]:
    """State without the tensors that begin with one of `prefixes`, and their names."""
    names = [name for name in state if name.startswith(prefixes)]
    return {name: array for name, array in state.items() if name not in set(names)}, names


def drop_head(state: State) -> State:
    """State without its classification head."""
    return drop(state, ("head.",))[0]


def drop_index_buffers(state: State) -> State:
    """State without relative position indices, which follow from the grid."""
    return {name: array for name, array in state.items() if not name.endswith("relative_position_index")}


def mim_to_classifier(state: State, *, keep_norm: bool = False) -> tuple[State, dict[str, str]]:
    """Encoder of a pre-trained state, and what was left out with the reason.

    The final `norm` of pre-training acts on every token; it does not become `fc_norm`, which acts on their mean and
    starts fresh. With `keep_norm` it stays, for a classifier of the class token.
    """
    reasons = dict.fromkeys(drop(state, _PRETRAINING_HEADS)[1], "used in pre-training only")
    if not keep_norm:
        reasons |= dict.fromkeys(
            drop(state, ("norm.",))[1], "norm of pre-training; it does not become fc_norm"
        )
    return {name: array for name, array in state.items() if name not in reasons}, reasons


def adapt(
    state: State, shapes: Shapes, *, grid: Grid | None = None, interpolation: Interpolation = "geometric"
) -> tuple[State, Changes]:
    """The state as a model with tensors of these `shapes` can take it, as far as the rules go; the caller checks.

    Args:
        state: canonical; not changed.
        shapes: of the model's tensors by canonical name.
        grid: (h, w) of the model in patches; None derives a square one from the tables.
    Raises:
        ValueError: the file holds another kind of network than the model.
    """
    source_kind, target_kind = kind_of(shapes_of(state)), kind_of(shapes)
    _check_family(source_kind, target_kind)
    changes = Changes()
    if source_kind in DALLE:
        return state, changes
    if source_kind == VQKD:
        return _adapt_tokenizer(state, shapes, grid, changes), changes
    bare = {name.removeprefix(BACKBONE_PREFIX): array for name, array in state.items()}
    target = {name.removeprefix(BACKBONE_PREFIX): shape for name, shape in shapes.items()}
    if source_kind != target_kind:
        bare = _change_kind(bare, source_kind, target_kind, target, changes)
    if SHARED_TABLE in bare and f"blocks.0.attn.{TABLE}" in target:
        bare = expand_shared_bias(bare, depth_of(target))
        changes.resized[SHARED_TABLE] = f"copied to each of {depth_of(target)} blocks"
    bare = _resize_all(bare, target, grid, interpolation, changes)
    bare = _keep_head_by_shape(bare, target, changes)
    if target_kind == SEGMENTATION:
        is_head = ("decode_head.", "auxiliary_head.")
        bare = {name if name.startswith(is_head) else BACKBONE_PREFIX + name: a for name, a in bare.items()}
    return bare, changes


def _check_family(source: str, target: str) -> None:
    encoder = (CLASSIFIER, BACKBONE, *MIM, SEGMENTATION)
    if source != target and not (source in encoder and target in encoder):
        raise ValueError(
            f"the file holds a {_WORDS[source]}, the model is a {_WORDS[target]}: take a file of its kind"
        )


_WORDS = {
    CLASSIFIER: "BEiT classifier",
    BACKBONE: "BEiT encoder",
    MIM_V1: "BEiT masked image model",
    "mim_v2": "BEiT v2 masked image model",
    VQKD: "VQ-KD tokenizer",
    "dalle_encoder": "DALL-E encoder",
    "dalle_decoder": "DALL-E decoder",
    SEGMENTATION: "BEiT with UPerNet",
}


def _change_kind(bare: State, source: str, target_kind: str, target: Shapes, changes: Changes) -> State:
    """Drop the heads of the source's task, declare those of the target's new."""
    if source in MIM and target_kind not in MIM:
        bare, reasons = mim_to_classifier(bare, keep_norm="norm.weight" in target)
        changes.dropped |= reasons
    if source in MIM and target_kind == MIM_V1:
        bare, names = drop(bare, ("cls_pt_",))
        changes.dropped |= dict.fromkeys(names, "patch aggregation of BEiT v2, which the model does not have")
    if source == SEGMENTATION:
        bare, names = drop(bare, _SEGMENTATION_HEADS)
        changes.dropped |= dict.fromkeys(names, "segmentation head")
    if target_kind == SEGMENTATION:
        bare, names = drop(bare, ("head.", "norm.", "fc_norm.", "mask_token"))
        changes.dropped |= dict.fromkeys(names, "segmentation takes block outputs: no norm, no classifier")
        reason = "the file has no segmentation head"
        changes.new |= {
            f"{_prefixed(name)}": reason for name in target if name.startswith(_SEGMENTATION_HEADS)
        }
        return bare
    if "head.weight" not in target:
        bare, names = drop(bare, ("head.",))
        changes.dropped |= dict.fromkeys(names, "the model has no classification head")
    if target_kind in (CLASSIFIER, BACKBONE):
        # A headless file is an encoder with its final norm; pre-training and segmentation have no norm to give.
        fresh = ("head.",) if source in (CLASSIFIER, BACKBONE) else ("head.", "fc_norm.", "norm.")
        reason = f"the file is a {_WORDS[source]}"
        changes.new |= {name: reason for name in target if name.startswith(fresh) and name not in bare}
    return bare


def _adapt_tokenizer(state: State, shapes: Shapes, grid: Grid | None, changes: Changes) -> State:
    """A VQ-KD without its decoder where the model only encodes, its absolute positions at the model's grid."""
    result = dict(state)
    if "decode_task_layer.0.weight" not in shapes:
        result, names = drop(result, ("decoder.", "decode_task_layer."))
        changes.dropped |= dict.fromkeys(names, "the model encodes only")
    for part in ("encoder.", "decoder."):
        inner = {name[len(part) :]: array for name, array in result.items() if name.startswith(part)}
        target = {name[len(part) :]: shape for name, shape in shapes.items() if name.startswith(part)}
        own = Changes()
        result |= {part + name: a for name, a in _resize_all(inner, target, grid, "geometric", own).items()}
        changes.resized |= {part + name: what for name, what in own.resized.items()}
    return result


def _prefixed(name: str) -> str:
    return name if name.startswith(("decode_head.", "auxiliary_head.")) else BACKBONE_PREFIX + name


def _resize_all(
    bare: State, target: Shapes, grid: Grid | None, interpolation: Interpolation, changes: Changes
) -> State:
    """Tables, absolute positions and the patch embedding at the model's size."""
    result = dict(bare)
    for name, array in bare.items():
        shape = target.get(name, array.shape)
        if shape == array.shape or len(shape) != array.ndim:
            continue
        if name.endswith(TABLE) and shape[1] == array.shape[1]:
            side, goal = table_side(array.shape[0]), grid or (table_side(shape[0]),) * 2
            if side and num_table_rows(goal) == shape[0]:
                result[name] = resize_relative_position_bias(array, (side, side), goal, interpolation)
        elif name == "pos_embed" and shape[2] == array.shape[2]:
            side = round((array.shape[1] - 1) ** 0.5)
            goal = grid or (round((shape[1] - 1) ** 0.5),) * 2
            if side * side + 1 == array.shape[1] and goal[0] * goal[1] + 1 == shape[1]:
                result[name] = resize_absolute_position(array, (side, side), goal)
        elif name == "patch_embed.proj.weight" and shape[:2] == array.shape[:2]:
            result[name] = resample_patch_embedding(array, shape[-1])
        if result[name] is not array:
            changes.resized[name] = f"{list(array.shape)} to {list(result[name].shape)}"
    if "mask_token" in bare and "mask_token" not in target:
        del result["mask_token"]
        changes.dropped["mask_token"] = "used in pre-training only"
    return result


def _keep_head_by_shape(bare: State, target: Shapes, changes: Changes) -> State:
    """Without the head where only the number of classes differs."""
    for head in ("head.", "decode_head.conv_seg.", "auxiliary_head.conv_seg."):
        weight, shape = bare.get(f"{head}weight"), target.get(f"{head}weight")
        if weight is None or shape is None or weight.shape == shape:
            continue
        axis = 1 if head == "head." else 0  # of the classes: a Linear, or a convolution
        if (
            weight.shape[axis] != shape[axis]
            and np.delete(weight.shape, axis).tolist() == np.delete(shape, axis).tolist()
        ):
            reason = f"{weight.shape[axis]} classes in the file, {shape[axis]} in the model"
            bare, names = drop(bare, (head,))
            changes.dropped |= dict.fromkeys(names, reason)
            changes.new |= dict.fromkeys(names, reason)
    return bare
