"""Published CLIP and DINO weights under the names of `Teacher`. Paddle is not needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.checkpoint.canonical import State, is_linear_weight
from beit.checkpoint.dialects import to_canonical
from beit.checkpoint.dialects.form import Rules, rename, under
from beit.checkpoint.errors import CheckpointError
from beit.checkpoint.qkv import fuse_qkv, split_qkv_bias
from beit.checkpoint.source import Source, open_checkpoint

HEAD_WIDTH = 64  # of every published CLIP and DINO vision transformer

_AFFINE = (("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"))
_OPENAI_BLOCK: Rules = (
    ("attn.in_proj_weight", "attn.qkv.weight"),
    ("attn.in_proj_bias", "attn.qkv.bias"),
    *((f"{theirs}.*", f"{ours}.*") for ours, theirs in (*_AFFINE, ("mlp.fc2", "mlp.c_proj"))),
)
_CLIP_BLOCK: Rules = (
    *((f"self_attn.{part}_proj.weight", f"attn.{part}.weight") for part in "qkv"),
    *((f"self_attn.{part}_proj.bias", f"attn.{part}_bias") for part in "qkv"),
    ("self_attn.out_proj.*", "attn.proj.*"),
    ("layer_norm1.*", "norm1.*"),
    ("layer_norm2.*", "norm2.*"),
    ("mlp.*", "mlp.*"),
)
_VIT_PARTS = (("q", "query"), ("k", "key"), ("v", "value"))
_VIT_BLOCK: Rules = (
    *((f"attention.attention.{name}.weight", f"attn.{part}.weight") for part, name in _VIT_PARTS),
    *((f"attention.attention.{name}.bias", f"attn.{part}_bias") for part, name in _VIT_PARTS),
    ("attention.output.dense.*", "attn.proj.*"),
    ("intermediate.dense.*", "mlp.fc1.*"),
    ("output.dense.*", "mlp.fc2.*"),
    ("layernorm_before.*", "norm1.*"),
    ("layernorm_after.*", "norm2.*"),
)


@dataclass(frozen=True)
class _Form:
    """A publisher's form: a name that only it has, names to ours, names that are no part of the teacher."""

    kind: str
    has: str
    rules: Rules
    drops: tuple[str, ...] = ()


_FORMS = (
    _Form(
        "clip",
        "ln_pre.weight",
        (
            ("class_embedding", "cls_token"),
            ("positional_embedding", "pos_embed"),
            ("conv1.weight", "patch_embed.proj.weight"),
            ("ln_pre.*", "pre_norm.*"),
            ("ln_post.*", "norm.*"),
            ("proj", "proj.weight"),
            *under("transformer.resblocks.{i}.", _OPENAI_BLOCK, "blocks.{i}."),
        ),
    ),
    _Form(
        "clip",
        "pre_layrnorm.weight",
        (
            ("embeddings.class_embedding", "cls_token"),
            ("embeddings.position_embedding.weight", "pos_embed"),
            ("embeddings.patch_embedding.weight", "patch_embed.proj.weight"),
            ("pre_layrnorm.*", "pre_norm.*"),
            ("post_layernorm.*", "norm.*"),
            ("visual_projection.weight", "proj.weight"),
            *under("encoder.layers.{i}.", _CLIP_BLOCK, "blocks.{i}."),
        ),
        ("embeddings.position_ids",),
    ),
    _Form(
        "dino",
        "blocks.0.attn.qkv.bias",
        (("cls_token", "cls_token"), ("pos_embed", "pos_embed"), ("patch_embed.proj.*", "patch_embed.proj.*"))
        + (("norm.*", "norm.*"), ("blocks.*", "blocks.*")),
        ("head.", "mask_token"),
    ),
    _Form(
        "dino",
        "embeddings.position_embeddings",
        (
            ("embeddings.cls_token", "cls_token"),
            ("embeddings.position_embeddings", "pos_embed"),
            ("embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
            ("layernorm.*", "norm.*"),
            *under("encoder.layer.{i}.", _VIT_BLOCK, "blocks.{i}."),
        ),
        ("pooler.",),
    ),
)
_WRAPPERS = (
    "teacher",
    "state_dict",
    "model",
    "student",
)  # DINO's training checkpoint: the teacher is what is published
_PREFIXES = ("module.", "backbone.", "visual.", "vision_model.", "vit.")


def read_teacher(path: str | Path, kind: str) -> State:
    """Tensors of a CLIP or DINO vision transformer by the names of `Teacher`, float32, Linear weights (in, out).

    Args:
        path: file, or folder of transformers.
        kind: `"clip"` or `"dino"`, or `"beit"` for a classifier of this package without relative positions.
    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, is no such teacher, or has tensors that do not belong to one.
    """
    source = open_checkpoint(path)
    if kind == "beit":
        return _classifier(source)
    arrays = _vision_part(source.tree)
    form = next((form for form in _FORMS if form.has in arrays), None)
    if form is None or form.kind != kind:
        found = (
            f"it holds a {form.kind.upper()} model"
            if form
            else f"its first tensors: {', '.join([*arrays][:4])}"
        )
        raise CheckpointError(
            f"{path} is no {kind.upper()} vision transformer of a known form ({found}); TOKENIZER.TEACHER and "
            "TOKENIZER.TEACHER_PRETRAINED must agree"
        )
    state: State = {}
    for name, array in arrays.items():
        ours = rename(name, form.rules)
        if ours is not None:
            state[ours] = _in_out(name, ours, array.astype(np.float32))
        elif not name.startswith(form.drops or ("\0",)):
            raise CheckpointError(f"{path}: {name} is no tensor of a {kind.upper()} vision transformer")
    state = {name: array for name, array in state.items() if not name.endswith("attn.k_bias")}
    state, _ = split_qkv_bias(fuse_qkv(state))
    width = state["cls_token"].shape[-1]
    state["cls_token"] = state["cls_token"].reshape(1, 1, width)
    state["pos_embed"] = state["pos_embed"].reshape(1, -1, width)
    state.setdefault("patch_embed.proj.bias", np.zeros(width, np.float32))  # CLIP has none
    return state


def _classifier(source: Source) -> State:
    """A BEiT classifier of any publisher, as far as it is a plain vision transformer; its norm on every patch token."""
    state, info = to_canonical(source.tree, name=source.name, config=source.config)
    has = info.architecture
    if not has.has_absolute_positions or has.has_relative_positions or has.has_layer_scale:
        raise CheckpointError(
            f"{source.name} is no plain vision transformer: a teacher needs absolute positions "
            "(MODEL.USE_ABS_POS_EMB True) and neither relative ones nor LayerScale (MODEL.USE_REL_POS_BIAS False, "
            "MODEL.INIT_VALUES 0)"
        )
    return {
        name.replace("fc_norm.", "norm."): array
        for name, array in state.items()
        if not name.startswith(("head.", "mask_token"))
    }


def _in_out(name: str, ours: str, array: np.ndarray) -> np.ndarray:
    # OpenAI's `proj` alone is stored (in, out).
    is_transposed = is_linear_weight(ours) or name == "visual_projection.weight"
    return array.T if is_transposed else array


def _vision_part(tree: Mapping[str, object]) -> dict[str, np.ndarray]:
    """Arrays of the vision tower without wrappers and prefixes."""
    for wrapper in _WRAPPERS:
        inner = tree.get(wrapper)
        if isinstance(inner, Mapping):
            tree = inner
            break
    arrays = {name: array for name, array in tree.items() if isinstance(array, np.ndarray)}
    towers = ("visual.", "vision_model.", "visual_projection.")
    if any(name.startswith(towers) for name in arrays):  # the text tower of CLIP is left out
        arrays = {name: array for name, array in arrays.items() if name.startswith(towers)}
    for prefix in _PREFIXES:
        arrays = {name.removeprefix(prefix): array for name, array in arrays.items()}
    return arrays
