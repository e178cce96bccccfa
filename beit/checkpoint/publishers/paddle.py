"""Publishers who use Paddle: PaddleClas, PASSL, PaddleViT, and this package itself (.pdparams).

Source: PaddleClas, ppcls/arch/backbone/model_zoo/foundation_vit.py (BEiTv2_vit_*); PASSL,
passl_v110/modeling/backbones/beit.py; PaddleViT, image_classification/BEiT/beit.py.
"""

from __future__ import annotations

from functools import partial

from beit.checkpoint.key_format import QKV, QKV_BIAS, SEGMENTATION_RULES, KeyFormat
from beit.metadata.architecture import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2, NATIVE, SEGMENTATION, VQKD

_native = partial(KeyFormat, publisher=NATIVE, recognized_by_layout=True, layout="paddle", prefers_ema=True)
FORMATS = (
    KeyFormat(
        publisher="paddleclas",
        kinds=(CLASSIFIER, BACKBONE),
        has=("blocks.{i}.gamma_1", "blocks.{i}.attn.relative_position_bias_table", QKV_BIAS),
        rules=(("head.fc_head.*", "head.*"), ("*", "*")),
        drops=(("proj", "projection of the CLIP model in the same file, unused by BEiT"),),
        layout="paddle",
        has_index_buffers=True,
        written=(),
    ),
    # No file with patch aggregation is published; its names follow from the wrapper, which prefixes all of them.
    KeyFormat(
        publisher="passl",
        kinds=(CLASSIFIER, BACKBONE, MIM_V1, MIM_V2),
        has=("backbone." + QKV,),
        lacks=("decode_head.*", "backbone.head.*", "head.weight"),
        rules=(("head.fc_cls.*", "head.*"), ("backbone.*", "*")),
        aliases=(("head.head.*", "head.fc_cls.*"),),  # BEiTFTHead, of PASSL's own fine-tuning
        drops=(("d_vae.*", "frozen DALL-E tokenizer saved along with the model"),),
        recognized_by_layout=True,
        layout="paddle",
        has_index_buffers=True,
    ),
    KeyFormat(
        publisher="paddlevit",
        kinds=(CLASSIFIER, BACKBONE),
        has=(QKV, "*relative_position_index"),
        lacks=(QKV_BIAS, "mask_token"),
        recognized_by_layout=True,
        layout="paddle",
        has_index_buffers=True,
        prefers_ema=True,  # main_multi_gpu_finetune.py L436-440
    ),
    _native(kinds=(VQKD,), has=("quantize.embedding.weight", "encoder." + QKV), lacks=("*" + QKV_BIAS,)),
    _native(
        kinds=(SEGMENTATION,),
        has=("backbone." + QKV, "decode_head.*"),
        rules=SEGMENTATION_RULES,
    ),
    _native(kinds=(CLASSIFIER, BACKBONE, MIM_V1, MIM_V2), has=(QKV,), lacks=("*" + QKV_BIAS,)),
)
