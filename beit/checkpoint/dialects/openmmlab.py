"""OpenMMLab: mmpretrain, mmselfsup, mmseg (.pth). Source: mmpretrain/models/backbones/beit.py, mmselfsup 1.x, mmseg/models/backbones/beit.py.

`layers.{i}.ln1` and `ln2` are the norms of a block; `backbone.ln1` and `ln2` are final norms.
"""

from __future__ import annotations

from beit.checkpoint.canonical import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2, SEGMENTATION, VQKD
from beit.checkpoint.dialects.form import Form, under

_INNER = (
    ("ln1.*", "norm1.*"),
    ("ln2.*", "norm2.*"),
    ("ffn.layers.0.0.*", "mlp.fc1.*"),
    ("ffn.layers.1.*", "mlp.fc2.*"),
    ("*", "*"),
)
_ENCODER = (("patch_embed.projection.*", "patch_embed.proj.*"), *under("layers.{i}.", _INNER, "blocks.{i}."))
_HEADS = (("head.fc.*", "head.*"), ("head.cls_head.*", "lm_head.*"))
_BACKBONE = under("backbone.", (*_ENCODER, ("*", "*")))
_TOKENIZER = (("target_generator.*", "frozen tokenizer saved along with the model"),)
_PREPROCESSOR = (("data_preprocessor.*", "normalization constants"),)

_CLASSIFIER = Form(
    publisher="openmmlab",
    kinds=(CLASSIFIER, BACKBONE, MIM_V1),
    has=("backbone.layers.{i}.attn.qkv.weight",),
    lacks=("neck.*", "decode_head.*"),
    rules=(("backbone.ln1.*", "norm.*"), ("backbone.ln2.*", "fc_norm.*"), *_HEADS, *_BACKBONE),
    drops=(*_TOKENIZER, *_PREPROCESSOR),
    has_index_buffers=True,
    wrapper="state_dict",
)
_MIM_V2 = Form(
    publisher="openmmlab",
    kinds=(MIM_V2,),
    has=("backbone.layers.{i}.attn.qkv.weight", "neck.patch_aggregation.{i}.*"),
    rules=(
        ("neck.norm.*", "norm.*"),
        *under("neck.patch_aggregation.{i}.", _INNER, "cls_pt_layers.{i}."),
        *_HEADS,
        *_BACKBONE,
    ),
    drops=(*_TOKENIZER, *_PREPROCESSOR),
    has_index_buffers=True,
    wrapper="state_dict",
)
_SEGMENTATION = Form(
    publisher="openmmlab",
    kinds=(SEGMENTATION,),
    has=("backbone.layers.{i}.attn.qkv.weight", "decode_head.*"),
    rules=(
        ("neck.upsample_4x.*", "fpn1.*"),
        ("neck.upsample_2x.*", "fpn2.*"),
        ("decode_head.*", "decode_head.*"),
        ("auxiliary_head.*", "auxiliary_head.*"),
        *_BACKBONE,
    ),
    drops=_PREPROCESSOR,
    has_index_buffers=True,
    wrapper="state_dict",
)
# The encoder half of a VQ-KD alone (vqkd_encoder.pth): its final norm acts on every token. No decoder, no EMA sums.
_VQKD = Form(
    publisher="openmmlab",
    kinds=(VQKD,),
    has=("encoder.layers.{i}.attn.qkv.weight", "quantize.embedding.weight"),
    rules=(*under("encoder.", (("ln1.*", "fc_norm.*"), *_ENCODER), "encoder."), ("*", "*")),
    writes=False,
)

FORMS = (_CLASSIFIER, _MIM_V2, _SEGMENTATION, _VQKD)
