"""PASSL v110 (.pdparams): PaddleViT's encoder under `backbone.`. Source: passl_v110/modeling/backbones/beit.py."""

from __future__ import annotations

from beit.checkpoint.canonical import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2
from beit.checkpoint.dialects.form import Form

# No file with patch aggregation is published; its place follows from the wrapper, which prefixes every name.
PASSL = Form(
    publisher="passl",
    kinds=(CLASSIFIER, BACKBONE, MIM_V1, MIM_V2),
    has=("backbone.blocks.{i}.attn.qkv.weight",),
    lacks=("decode_head.*",),
    rules=(("head.fc_cls.*", "head.*"), ("backbone.*", "*")),
    aliases=(("head.head.*", "head.fc_cls.*"),),  # BEiTFTHead, of PASSL's own fine-tuning
    drops=(("d_vae.*", "frozen DALL-E tokenizer saved along with the model"),),
    layout="paddle",
    has_index_buffers=True,
)

FORMS = (PASSL,)
