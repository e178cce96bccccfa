"""microsoft/unilm: beit and beit2 (.pth), and timm, which kept the names. Source: beit/modeling_*.py, beit2/modeling_*.py."""

from __future__ import annotations

from beit.checkpoint.canonical import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2, SEGMENTATION, VQKD
from beit.checkpoint.dialects.form import Form

_BLOCK = "blocks.{i}.attn.qkv.weight"
_KEY_BIAS = "blocks.{i}.attn.qkv.bias"

_VQKD = Form(
    publisher="unilm",
    kinds=(VQKD,),
    has=("quantize.embedding.weight", "encoder." + _BLOCK),
    # The official loader deletes these three before its strict load (run_beitv2_pretraining, get_visual_tokenizer).
    drops=(
        ("teacher*", "frozen teacher of the tokenizer's training"),
        ("scaling*", "input scaling of the frozen teacher"),
        ("loss*", "perceptual loss of the tokenizer's training"),
    ),
    wrapper="model",
)
_SEGMENTATION = Form(
    publisher="unilm",
    kinds=(SEGMENTATION,),
    has=("backbone." + _BLOCK, "decode_head.*"),
    rules=(("decode_head.*", "decode_head.*"), ("auxiliary_head.*", "auxiliary_head.*"), ("backbone.*", "*")),
    has_index_buffers=True,
    wrapper="state_dict",
)
_TIMM = Form(
    publisher="timm",
    kinds=(CLASSIFIER, BACKBONE),
    has=(_BLOCK,),
    lacks=("*relative_position_index", "mask_token", _KEY_BIAS),
    recognized_by_layout=True,
    wrappers=(None, "state_dict", "state_dict_ema"),
)
_UNILM = Form(
    publisher="unilm",
    kinds=(CLASSIFIER, BACKBONE, MIM_V1, MIM_V2),
    has=(_BLOCK,),
    lacks=(_KEY_BIAS,),
    recognized_by_layout=True,
    has_index_buffers=True,
    wrapper="model",
)

FORMS = (_VQKD, _SEGMENTATION, _TIMM, _UNILM)
