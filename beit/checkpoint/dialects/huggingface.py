"""HuggingFace transformers: BEiT in the published key layout, the 5.x run-time layout and without prefix.

Source: transformers, models/beit/modeling_beit.py and conversion_mapping. The published layout is what every release writes by default; the 5.x names are aliases.
"""

from __future__ import annotations

from beit.checkpoint.canonical import BACKBONE, CLASSIFIER, MIM_V1, SEGMENTATION
from beit.checkpoint.dialects.form import Form, Rules, under

_LAYER = "beit.encoder.layer.{i}."
_RUNTIME_LAYER = "beit.layers.{i}."
_TABLE = "relative_position_bias_table"
_INNER = (
    ("lambda_1", "gamma_1"),
    ("lambda_2", "gamma_2"),
    ("layernorm_before.*", "norm1.*"),
    ("layernorm_after.*", "norm2.*"),
    ("attention.attention.query.weight", "attn.q.weight"),
    ("attention.attention.query.bias", "attn.q_bias"),
    ("attention.attention.key.weight", "attn.k.weight"),
    ("attention.attention.value.weight", "attn.v.weight"),
    ("attention.attention.value.bias", "attn.v_bias"),
    (f"attention.attention.relative_position_bias.{_TABLE}", f"attn.{_TABLE}"),
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
    *under(_LAYER, _INNER, "blocks.{i}."),
)
# A bare BeitModel or BeitBackbone has no `beit.`.
_PREFIX: Rules = (
    ("embeddings.*", "beit.embeddings.*"),
    ("encoder.*", "beit.encoder.*"),
    ("layers.*", "beit.layers.*"),
    ("shared_position_bias.*", "beit.shared_position_bias.*"),
    ("pooler.*", "beit.pooler.*"),
)
_RUNTIME: Rules = (
    *tuple(
        (f"{_RUNTIME_LAYER}attention.{short}_proj.*", f"{_LAYER}attention.attention.{long}.*")
        for short, long in (("q", "query"), ("k", "key"), ("v", "value"))
    ),
    (_RUNTIME_LAYER + "attention.o_proj.*", _LAYER + "attention.output.dense.*"),
    (_RUNTIME_LAYER + "mlp.fc1.*", _LAYER + "intermediate.dense.*"),
    (_RUNTIME_LAYER + "mlp.fc2.*", _LAYER + "output.dense.*"),
    (
        _RUNTIME_LAYER + f"relative_position_bias.{_TABLE}",
        _LAYER + f"attention.attention.relative_position_bias.{_TABLE}",
    ),
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
_CLS_TOKEN = "*embeddings.cls_token"

_SEGMENTATION = Form(
    publisher="huggingface",
    kinds=(SEGMENTATION,),
    has=(_CLS_TOKEN, "decode_head.*"),
    rules=(
        ("decode_head.classifier.*", "decode_head.conv_seg.*"),
        ("auxiliary_head.classifier.*", "auxiliary_head.conv_seg.*"),
        ("decode_head.*", "decode_head.*"),
        ("auxiliary_head.*", "auxiliary_head.*"),
        ("fpn1.*", "fpn1.*"),
        ("fpn2.*", "fpn2.*"),
        *_ENCODER,
    ),
    aliases=(*_PREFIX, *_RUNTIME, *_RUNTIME_HEADS),
    splits_qkv=True,
)
_MIM = Form(
    publisher="huggingface",
    kinds=(MIM_V1,),
    has=(_CLS_TOKEN, "lm_head.weight"),
    rules=(*_ENCODER, ("layernorm.*", "norm.*"), ("lm_head.*", "lm_head.*")),
    aliases=(*_PREFIX, *_RUNTIME),
    splits_qkv=True,
)
_CLASSIFIER = Form(
    publisher="huggingface",
    kinds=(CLASSIFIER, BACKBONE),
    has=(_CLS_TOKEN,),
    lacks=("data2vec_vision.*",),
    rules=(
        *_ENCODER,
        ("beit.layernorm.*", "norm.*"),
        ("beit.pooler.layernorm.*", "fc_norm.*"),
        ("classifier.*", "head.*"),
    ),
    aliases=(*_PREFIX, *_RUNTIME, ("layernorm.*", "beit.layernorm.*")),
    splits_qkv=True,
)

FORMS = (_SEGMENTATION, _MIM, _CLASSIFIER)
