"""HuggingFace transformers: BEiT in the published names, in the run-time names of release 5, and without prefix.

Source: transformers, models/beit/modeling_beit.py and conversion_mapping. Every release writes the published names by
default; the names of release 5 are aliases.
"""

from __future__ import annotations

from functools import partial

from beit.checkpoint.canonical import TABLE
from beit.checkpoint.key_format import HEAD_RULES, KeyFormat, Rules, under
from beit.metadata.architecture import BACKBONE, CLASSIFIER, MIM_V1, SEGMENTATION

_LAYER = "beit.encoder.layer.{i}."
_RUNTIME_LAYER = "beit.layers.{i}."
BLOCK_RULES = (
    ("lambda_1", "gamma_1"),
    ("lambda_2", "gamma_2"),
    ("layernorm_before.*", "norm1.*"),
    ("layernorm_after.*", "norm2.*"),
    *((f"attention.attention.{name}.weight", f"attn.{name[0]}.weight") for name in ("query", "key", "value")),
    *((f"attention.attention.{name}.bias", f"attn.{name[0]}_bias") for name in ("query", "value")),
    (f"attention.attention.relative_position_bias.{TABLE}", f"attn.{TABLE}"),
    ("attention.output.dense.*", "attn.proj.*"),
    ("intermediate.dense.*", "mlp.fc1.*"),
    ("output.dense.*", "mlp.fc2.*"),
)
_ENCODER: Rules = (
    ("beit.embeddings.cls_token", "cls_token"),
    ("beit.embeddings.mask_token", "mask_token"),
    ("beit.embeddings.position_embeddings", "pos_embed"),
    ("beit.embeddings.patch_embeddings.projection.*", "patch_embed.proj.*"),
    ("beit.encoder.relative_position_bias.*", "rel_pos_bias.*"),
    *under(_LAYER, BLOCK_RULES, "blocks.{i}."),
)
# A bare BeitModel or BeitBackbone has no `beit.`.
_PREFIX: Rules = tuple(
    (f"{module}.*", f"beit.{module}.*")
    for module in ("embeddings", "encoder", "layers", "shared_position_bias", "pooler")
)
_RUNTIME: Rules = (
    *(
        (f"{_RUNTIME_LAYER}attention.{name[0]}_proj.*", f"{_LAYER}attention.attention.{name}.*")
        for name in ("query", "key", "value")
    ),
    (_RUNTIME_LAYER + "attention.o_proj.*", _LAYER + "attention.output.dense.*"),
    (_RUNTIME_LAYER + "mlp.fc1.*", _LAYER + "intermediate.dense.*"),
    (_RUNTIME_LAYER + "mlp.fc2.*", _LAYER + "output.dense.*"),
    (_RUNTIME_LAYER + "relative_position_bias.*", _LAYER + "attention.attention.relative_position_bias.*"),
    (_RUNTIME_LAYER + "*", _LAYER + "*"),
    ("beit.shared_position_bias.*", "beit.encoder.relative_position_bias.*"),
)
_RUNTIME_HEADS: Rules = (
    ("fpn.fpn1.conv_transpose1.*", "fpn1.0.*"),
    ("fpn.fpn1.normalization.*", "fpn1.1.*"),
    ("fpn.fpn1.conv_transpose2.*", "fpn1.3.*"),
    ("fpn.fpn2.*", "fpn2.0.*"),
    ("decode_head.psp_modules.blocks.{i}.conv.*", "decode_head.psp_modules.{i}.1.*"),
    ("decode_head.psp_bottleneck.*", "decode_head.bottleneck.*"),
    *tuple(
        (f"{module}.{theirs}.*", f"{module}.{ours}.*")
        for module in (
            *("decode_head.psp_modules.{i}.1", "decode_head.bottleneck", "decode_head.lateral_convs.{i}"),
            *("decode_head.fpn_convs.{i}", "decode_head.fpn_bottleneck", "auxiliary_head.convs.{i}"),
        )
        for theirs, ours in (("convolution", "conv"), ("normalization", "bn"))
    ),
)
_PYRAMID: Rules = (("fpn1.*", "fpn1.*"), ("fpn2.*", "fpn2.*"))
_CLS_TOKEN = "*embeddings.cls_token"


_huggingface = partial(KeyFormat, publisher="huggingface", splits_qkv=True)
FORMATS = (
    _huggingface(
        kinds=(SEGMENTATION,),
        has=(_CLS_TOKEN, "decode_head.*"),
        rules=(
            ("decode_head.classifier.*", "decode_head.conv_seg.*"),
            ("auxiliary_head.classifier.*", "auxiliary_head.conv_seg.*"),
            *HEAD_RULES,
            *_PYRAMID,
            *_ENCODER,
        ),
        drops=tuple(
            (name, "segmentation takes block outputs: no norm")
            for name in ("layernorm.*", "beit.layernorm.*")
        ),
        aliases=(*_PREFIX, *_RUNTIME, *_RUNTIME_HEADS),
    ),
    _huggingface(
        kinds=(MIM_V1,),
        has=(_CLS_TOKEN, "lm_head.weight"),
        rules=(*_ENCODER, ("layernorm.*", "norm.*"), ("lm_head.*", "lm_head.*")),
        aliases=(*_PREFIX, *_RUNTIME),
    ),
    _huggingface(
        kinds=(CLASSIFIER, BACKBONE),
        has=(_CLS_TOKEN,),
        lacks=("*data2vec_vision.*", "*attention.attention.key.bias"),
        rules=(
            *_ENCODER,
            ("beit.layernorm.*", "norm.*"),
            ("beit.pooler.layernorm.*", "fc_norm.*"),
            ("classifier.*", "head.*"),
            *_PYRAMID,  # of a BeitBackbone
        ),
        aliases=(*_PREFIX, *_RUNTIME, *_RUNTIME_HEADS, ("layernorm.*", "beit.layernorm.*")),
    ),
)
