"""OpenMMLab: mmpretrain, mmselfsup, mmseg (.pth).

Source: mmpretrain/models/backbones/beit.py, mmselfsup 1.x, mmseg/models/backbones/beit.py. The norms of a
block are `layers.{i}.ln1` and `ln2`; `backbone.ln1` and `ln2` are final norms.
"""

from __future__ import annotations

from functools import partial

from beit.checkpoint.key_format import HEAD_RULES, KeyFormat, under
from beit.metadata.architecture import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2, SEGMENTATION, VQKD

_INNER = (
    ("ln1.*", "norm1.*"),
    ("ln2.*", "norm2.*"),
    ("ffn.layers.0.0.*", "mlp.fc1.*"),
    ("ffn.layers.1.*", "mlp.fc2.*"),
    ("*", "*"),
)
_ENCODER = (("patch_embed.projection.*", "patch_embed.proj.*"), *under("layers.{i}.", _INNER, "blocks.{i}."))
_OUTPUTS = (("head.fc.*", "head.*"), ("head.cls_head.*", "lm_head.*"))
_BACKBONE = under("backbone.", (*_ENCODER, ("*", "*")))
_TOKENIZER = ("target_generator.*", "frozen tokenizer saved along with the model")
_PREPROCESSOR = ("data_preprocessor.*", "normalization constants")

_openmmlab = partial(KeyFormat, publisher="openmmlab", has_index_buffers=True, wrapper="state_dict")
FORMATS = (
    _openmmlab(
        kinds=(CLASSIFIER, BACKBONE, MIM_V1),
        has=("backbone.layers.{i}.attn.qkv.weight",),
        lacks=("neck.*", "decode_head.*"),
        rules=(("backbone.ln1.*", "norm.*"), ("backbone.ln2.*", "fc_norm.*"), *_OUTPUTS, *_BACKBONE),
        drops=(_TOKENIZER, _PREPROCESSOR),
    ),
    _openmmlab(
        kinds=(MIM_V2,),
        has=("backbone.layers.{i}.attn.qkv.weight", "neck.patch_aggregation.{i}.*"),
        rules=(
            ("neck.norm.*", "norm.*"),
            *under("neck.patch_aggregation.{i}.", _INNER, "cls_pt_layers.{i}."),
            *_OUTPUTS,
            *_BACKBONE,
        ),
        drops=(_TOKENIZER, _PREPROCESSOR),
    ),
    _openmmlab(
        kinds=(SEGMENTATION,),
        has=("backbone.layers.{i}.attn.qkv.weight", "decode_head.*"),
        rules=(
            ("neck.upsample_4x.*", "fpn1.*"),
            ("neck.upsample_2x.*", "fpn2.*"),
            *HEAD_RULES,
            *_BACKBONE,
        ),
        drops=(_PREPROCESSOR,),
    ),
    # The encoder of a VQ-KD alone (vqkd_encoder.pth), without decoder and EMA sums. Its final norm acts on every token.
    _openmmlab(
        kinds=(VQKD,),
        has=("encoder.layers.{i}.attn.qkv.weight", "quantize.embedding.weight"),
        rules=(*under("encoder.", (("ln1.*", "fc_norm.*"), *_ENCODER), "encoder."), ("*", "*")),
        written=(),
    ),
)
