"""The canonical form of a state: the tensor names of every model in this package, and what names and shapes say.

Linear weights are Paddle's ``[in, out]``, arrays are float32, and index buffers are left out because they follow from
the grid. The names are those that published BEiT files share (unilm, PaddleViT); a segmentation model holds its
encoder under ``backbone.``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

import numpy as np

from beit.metadata.architecture import (
    BACKBONE,
    CLASSIFIER,
    CLIP,
    DALLE,
    DALLE_DECODER,
    DALLE_ENCODER,
    DINO,
    MIM,
    MIM_V1,
    MIM_V2,
    SEGMENTATION,
    VQKD,
    Architecture,
    DalleSizes,
)
from beit.positions import Grid, num_table_rows, positions_side, table_side
from beit.preprocessing import ImageSize, height_width

State = dict[str, np.ndarray]

TABLE = "relative_position_bias_table"
SHARED_TABLE = f"rel_pos_bias.{TABLE}"
BACKBONE_PREFIX = "backbone."
SEGMENTATION_HEADS = ("decode_head.", "auxiliary_head.")
"""Prefixes of the parts of a segmentation model outside of `backbone.`."""
FEATURE_PYRAMID = ("fpn1.", "fpn2.")

PUBLISHED_HEADS: dict[int, int] = {192: 3, 384: 6, 768: 12, 1024: 16}
"""Width -> heads of every published BEiT, VQ-KD, CLIP and DINO of this width; used if they are unknown otherwise."""


Names = dict[str, str]
"""Name of a tensor -> its axes. In the name `{i}` and `{j}` stand for an index.

D width, E width of all attention heads together, M width of the MLP, H heads, T table rows, N tokens, P patch side, C
color channels, K classes, V codes of pre-training, O output of CLIP, Q codes of a tokenizer, W their width. Capital letters
stand for one number in a whole encoder, small letters (i in, o out, k kernel) in one layer.
"""


def _affine(axes: str, *names: str, bias: str = "") -> Names:
    """Weights with these axes, and biases with the last of them unless another is named."""
    parts = {"weight": axes, "bias": bias or axes[-1]}
    return {f"{name}.{part}": parts[part] for name in names for part in parts}


def _norm(*names: str) -> Names:
    return {f"{name}.{part}": "o" for name in names for part in ("weight", "bias", "_mean", "_variance")}


def _conv_norm(*names: str) -> Names:
    return {f"{name}.conv.weight": "o i k k" for name in names} | _norm(*(f"{name}.bn" for name in names))


def _under(prefix: str, names: Names) -> Names:
    return {prefix + name: axes for name, axes in names.items()}


_VIT_BLOCK = {
    **_affine("D", "norm1", "norm2"),
    **_affine("E D", "attn.proj"),
    **_affine("D M", "mlp.fc1"),
    **_affine("M D", "mlp.fc2"),
    "attn.qkv.weight": "D 3E",
}
_QV_BIAS = {"attn.q_bias": "E", "attn.v_bias": "E"}
_BLOCK = {"gamma_1": "D", "gamma_2": "D", **_QV_BIAS, **_VIT_BLOCK}
_STEM = {"cls_token": "1 1 D", "pos_embed": "1 N D", **_affine("D C P P", "patch_embed.proj", bias="D")}
_VIT = _STEM | _affine("D", "norm") | _under("blocks.{i}.", _QV_BIAS | _VIT_BLOCK)
_ENCODER = _STEM | {SHARED_TABLE: "T H"} | _under("blocks.{i}.", {**_BLOCK, f"attn.{TABLE}": "T H"})
_MASKED = _ENCODER | {"mask_token": "1 1 D"}
_MASKED_HEAD = _affine("D", "norm") | _affine("D V", "lm_head")
_MIM_V1 = _MASKED | _MASKED_HEAD
_TOKENIZER_PART = _ENCODER | _affine("D", "fc_norm")
_UPER_HEAD = {
    **_affine("o i k k", "decode_head.conv_seg", "auxiliary_head.conv_seg", bias="o"),
    **_conv_norm("decode_head.psp_modules.{i}.1", "decode_head.bottleneck", "decode_head.lateral_convs.{i}"),
    **_conv_norm("decode_head.fpn_convs.{i}", "decode_head.fpn_bottleneck", "auxiliary_head.convs.{i}"),
}
_FEATURE_PYRAMID = _affine("i o k k", "fpn1.0", "fpn1.3", "fpn2.0", bias="o") | _norm("fpn1.1")
_DALLE_CONVS = (
    *("blocks.input", "blocks.output.conv", "blocks.group_{i}.block_{j}.id_path"),
    *(f"blocks.group_{{i}}.block_{{j}}.res_path.conv_{k}" for k in range(1, 5)),
)
_DALLE = {f"{conv}.{part}": axes for conv in _DALLE_CONVS for part, axes in (("w", "o i k k"), ("b", "o"))}

NUMBER = "[0-9]{1,3}"
"""Regular expression of the number of a block or layer: no model has a thousand, so names make no loop long."""
NAMES: dict[str, Names] = {
    BACKBONE: _MASKED | _affine("D", "norm", "fc_norm") | _FEATURE_PYRAMID,
    CLASSIFIER: _MASKED | _affine("D", "norm", "fc_norm") | _affine("D K", "head"),
    MIM_V1: _MIM_V1,
    MIM_V2: _MIM_V1 | _under("cls_pt_layers.{i}.", _BLOCK) | _under("cls_pt_", _MASKED_HEAD),
    VQKD: {
        **_under("encoder.", _TOKENIZER_PART),
        **_under("decoder.", _TOKENIZER_PART),
        **_affine("i o", *(f"{part}_task_layer.{k}" for part in ("encode", "decode") for k in (0, 2))),
        **dict.fromkeys(("quantize.cluster_size", "quantize.embedding.cluster_size"), "Q"),
        **dict.fromkeys(("quantize.embedding.weight", "quantize.embedding.embed_avg"), "Q W"),
        "quantize.embedding.initted": "",  # a flag of any shape
    },
    DALLE_ENCODER: _DALLE,
    DALLE_DECODER: _DALLE,
    SEGMENTATION: _under(BACKBONE_PREFIX, _MASKED | _FEATURE_PYRAMID) | _UPER_HEAD,
    CLIP: _VIT | _affine("D", "pre_norm") | {"proj.weight": "D O"},
    DINO: _VIT,
}
"""Kind -> its tensors."""

# The only weights whose layout differs between PyTorch and Paddle. By name: attn.proj is square, and position tables
# and codebooks are two-dimensional without being Linear weights.
_LINEAR = re.compile(
    r"(.*\.)?((attn\.(qkv|q|k|v|proj)|mlp\.fc[12]|(en|de)code_task_layer\.\d+)\.weight"
    r"|(lm_head|cls_pt_lm_head)\.weight)|(head|proj)\.weight"
)


def is_linear_weight(name: str) -> bool:
    """Whether the canonical `name` is a Linear weight, which PyTorch stores transposed."""
    return _LINEAR.fullmatch(name) is not None


@cache
def _pattern(kind: str) -> re.Pattern[str]:
    """One group for each name of the kind, in order."""
    names = (re.escape(name).replace(r"\{i\}", NUMBER).replace(r"\{j\}", NUMBER) for name in NAMES[kind])
    return re.compile("|".join(f"({name})" for name in names))


def axes_of(name: str, kind: str) -> str | None:
    """The axes of the tensor `name` in models of this kind, as in `Names`; None if they have no such tensor."""
    match = _pattern(kind).fullmatch(name)
    return list(NAMES[kind].values())[match.lastindex - 1] if match and match.lastindex else None


def is_canonical(name: str, kind: str) -> bool:
    """Whether models of this kind have a tensor called `name`."""
    return _pattern(kind).fullmatch(name) is not None


def segmentation_name(name: str) -> str:
    """Name in a segmentation model of a tensor without the prefix `backbone.`."""
    return name if name.startswith(SEGMENTATION_HEADS) else BACKBONE_PREFIX + name


def kind_of(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The kind of BEiT model, tokenizer or segmentation model that canonical names and shapes describe."""
    if "quantize.embedding.weight" in shapes:
        return VQKD
    if "blocks.input.w" in shapes:
        # The encoder reads three color channels, the decoder 8192 one-hot ones.
        return DALLE_ENCODER if shapes["blocks.input.w"][1:2] == (3,) else DALLE_DECODER
    if any(name.startswith("decode_head.") for name in shapes):
        return SEGMENTATION
    if any(name.startswith("cls_pt_") for name in shapes):
        return MIM_V2
    if "lm_head.weight" in shapes:
        return MIM_V1
    return CLASSIFIER if "head.weight" in shapes else BACKBONE


def shapes_of(state: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(array.shape) for name, array in state.items()}


def depth_of(names: Iterable[str], prefix: str = "blocks.") -> int:
    """Highest index after `prefix`, plus one; 0 if no name has the prefix."""
    found = re.compile(f"{re.escape(prefix)}({NUMBER})\\.")
    return max((int(match[1]) + 1 for name in names if (match := found.match(name))), default=0)


_NEEDED = {
    **dict.fromkeys(MIM, ("mask_token", "norm.weight", "lm_head.weight")),
    **dict.fromkeys(DALLE, ("blocks.input.w", "blocks.output.conv.w")),
    SEGMENTATION: ("decode_head.fpn_bottleneck.conv.weight",),
}
"""Kind -> tensors, beside those of its encoder, without which its sizes are not known."""


def missing_names(state: Mapping[str, np.ndarray], kind: str) -> list[str]:
    """Canonical names that a complete state of this kind would have and `state` lacks.

    What one block has, every block must have; a weight needs its bias. Layer scale, position tables and heads may be
    absent altogether.
    """
    expected: set[str] = set()
    for stack in ("blocks.", "backbone.blocks.", "encoder.blocks.", "decoder.blocks.", "cls_pt_layers."):
        depth = depth_of(state, stack)
        inner = {
            match[1] for name in state if (match := re.fullmatch(rf"{re.escape(stack)}{NUMBER}\.(.+)", name))
        }
        inner |= _VIT_BLOCK.keys()
        expected |= {f"{stack}{i}.{name}" for i in range(depth) for name in inner if kind not in DALLE}
    suffixes = {"b": "w", "w": "b"} if kind in DALLE else {"bias": "weight", "weight": "bias"}
    for name in state:
        stem, _, last = name.rpartition(".")
        other = f"{stem}.{suffixes.get(last, '')}"
        if is_canonical(other, kind):
            expected.add(other)
    if kind not in DALLE:
        expected |= _under(_encoder_prefix(kind), _STEM).keys() - {f"{_encoder_prefix(kind)}pos_embed"}
    expected |= set(_NEEDED.get(kind, ()))
    return sorted(expected - state.keys())


def describe(
    shapes: Mapping[str, tuple[int, ...]],
    kind: str,
    *,
    grids: Iterable[Grid] = (),
    sizes: Iterable[ImageSize] = (),
    num_heads: int | None = None,
) -> Architecture:
    """Architecture of a model, from the shapes of its tensors. For DALL-E only `dalle` is set.

    Position tables give the number of patches, not their number per row. The grid is the first that fits this number: of
    `grids`, of the grids of images of `sizes`, and of the square grid.

    Args:
        shapes: by canonical name.
        kind: of model.
        grids: (h, w) that the file may have.
        sizes: image sizes that the files beside the weights state, pixels.
        num_heads: number of heads that the files beside the weights state.
    """
    prefix = _encoder_prefix(kind)
    whole, head = shapes, "decode_head.conv_seg.bias" if kind == SEGMENTATION else "head.bias"
    shapes = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
    codes = whole.get("lm_head.weight", (0, 0))[1]
    if kind == VQKD:
        codes = whole.get("quantize.embedding.weight", (0, 0))[0]
    own = f"blocks.0.attn.{TABLE}"
    table = shapes.get(own, shapes.get(SHARED_TABLE))
    width = shapes.get("cls_token", (0,))[-1]
    positions = shapes.get("pos_embed")
    patch = shapes.get("patch_embed.proj.weight", (0, 0, 0, 0))[-1]
    stated = [(h // patch, w // patch) for h, w in map(height_width, sizes) if patch]
    heads = table[1] if table else num_heads or PUBLISHED_HEADS.get(width, 0)
    qkv = shapes.get("blocks.0.attn.qkv.weight", (0, 0))
    return Architecture(
        depth=depth_of(shapes) if kind not in DALLE else 0,
        width=width,
        num_heads=heads,
        head_dim=qkv[1] // 3 // heads if heads else 0,
        mlp_width=shapes.get("blocks.0.mlp.fc1.bias", (0,))[0],
        patch_size=patch,
        grid_size=_grid(table[0] if table else 0, positions[1] if positions else 0, [*grids, *stated]),
        num_classes=whole.get(head, (0,))[0],
        pooling="mean" if "fc_norm.weight" in shapes else "token" if "norm.weight" in shapes else "",
        has_layer_scale="blocks.0.gamma_1" in shapes,
        has_absolute_positions=positions is not None,
        has_relative_positions=own in shapes,
        has_shared_relative_positions=SHARED_TABLE in shapes,
        has_query_bias="blocks.0.attn.q_bias" in shapes,
        has_mask_token="mask_token" in shapes,
        num_codes=codes,
        decoder_channels=whole.get("decode_head.fpn_bottleneck.conv.weight", (0,))[0],
        auxiliary_channels=whole.get("auxiliary_head.convs.0.conv.weight", (0,))[0],
        auxiliary_convs=depth_of(whole, "auxiliary_head.convs."),
        dalle=_dalle_sizes(whole) if kind in DALLE else None,
    )


def _dalle_sizes(shapes: Mapping[str, tuple[int, ...]]) -> DalleSizes:
    first, last = (shapes.get(f"blocks.{part}.w", (0, 0)) for part in ("input", "output.conv"))
    groups, blocks = depth_of(shapes, "blocks.group_"), depth_of(shapes, "blocks.group_1.block_")
    # Groups and blocks count from 1.
    return DalleSizes(max(groups - 1, 0), max(blocks - 1, 0), first[1], first[0], last[1], last[0])


def _grid(num_rows: int, num_positions: int, candidates: Iterable[Grid]) -> Grid | None:
    """The first candidate with this number of table rows and positions (0: the model has none), or the square grid."""
    if not num_rows and not num_positions:
        return None
    side = table_side(num_rows) or positions_side(num_positions)
    for grid in (*candidates, (side, side)):
        fits_table = not num_rows or num_table_rows(grid) == num_rows
        if min(grid) > 0 and fits_table and num_positions in (0, grid[0] * grid[1] + 1):
            return grid
    return None


def _encoder_prefix(kind: str) -> str:
    return {SEGMENTATION: BACKBONE_PREFIX, VQKD: "encoder."}.get(kind, "")
