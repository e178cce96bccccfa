"""PaddleClas foundation models BEiTv2_vit_* (.pdparams). Source: ppcls/arch/backbone/model_zoo/foundation_vit.py."""

from __future__ import annotations

from beit.checkpoint.canonical import BACKBONE, CLASSIFIER
from beit.checkpoint.dialects.form import Form

PADDLECLAS = Form(
    publisher="paddleclas",
    kinds=(CLASSIFIER, BACKBONE),
    has=("blocks.{i}.attn.qkv.bias", "blocks.{i}.gamma_1", "blocks.{i}.attn.relative_position_bias_table"),
    rules=(("head.fc_head.*", "head.*"), ("*", "*")),
    drops=(("proj", "projection of the CLIP model in the same file, unused by BEiT"),),
    layout="paddle",
    has_index_buffers=True,
    writes=False,
)

FORMS = (PADDLECLAS,)
