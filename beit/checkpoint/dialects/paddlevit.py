"""PaddleViT (.pdparams) and this package's own files: the canonical names. Source: PaddleViT, image_classification/BEiT/beit.py."""

from __future__ import annotations

from beit.checkpoint.canonical import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2, SEGMENTATION, VQKD
from beit.checkpoint.dialects.form import Form

_BLOCK = "blocks.{i}.attn.qkv.weight"

_PADDLEVIT = Form(
    publisher="paddlevit",
    kinds=(CLASSIFIER, BACKBONE),
    has=(_BLOCK, "*relative_position_index"),
    lacks=("blocks.{i}.attn.qkv.bias", "mask_token"),
    recognized_by_layout=True,
    layout="paddle",
    has_index_buffers=True,
    prefers_ema=True,  # main_multi_gpu_finetune.py L436-440
)


def _canonical(*kinds: str, has: tuple[str, ...]) -> Form:
    return Form(
        publisher="canonical",
        kinds=kinds,
        has=has,
        lacks=("*blocks.{i}.attn.qkv.bias",),
        recognized_by_layout=True,
        layout="paddle",
        prefers_ema=True,
    )


_VQKD = _canonical(VQKD, has=("quantize.embedding.weight", "encoder." + _BLOCK))
_SEGMENTATION = Form(
    publisher="canonical",
    kinds=(SEGMENTATION,),
    has=("backbone." + _BLOCK, "decode_head.*"),
    rules=(("decode_head.*", "decode_head.*"), ("auxiliary_head.*", "auxiliary_head.*"), ("backbone.*", "*")),
    recognized_by_layout=True,
    layout="paddle",
    prefers_ema=True,
)

FORMS = (_PADDLEVIT, _VQKD, _SEGMENTATION, _canonical(CLASSIFIER, BACKBONE, MIM_V1, MIM_V2, has=(_BLOCK,)))
