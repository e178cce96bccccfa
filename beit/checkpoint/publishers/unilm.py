"""microsoft/unilm: beit and beit2 (.pth), and timm, which kept the names.

Source: unilm, beit/modeling_*.py and beit2/modeling_*.py.
"""

from __future__ import annotations

from beit.checkpoint.key_format import QKV, QKV_BIAS, SEGMENTATION_RULES, KeyFormat
from beit.metadata.architecture import BACKBONE, CLASSIFIER, MIM_V1, MIM_V2, SEGMENTATION, VQKD

# A buffer that timm's state dicts do not hold, but its pickled models do.
_KEY_BIAS = (("blocks.{i}.attn.k_bias", "zero bias of the keys; any would be canceled by softmax"),)

FORMATS = (
    KeyFormat(
        publisher="unilm",
        kinds=(VQKD,),
        has=("quantize.embedding.weight", "encoder." + QKV),
        # The official loader deletes these three before its strict load (run_beitv2_pretraining, get_visual_tokenizer).
        drops=(
            ("teacher*", "frozen teacher of the tokenizer's training"),
            ("scaling*", "input scaling of the frozen teacher"),
            ("loss*", "perceptual loss of the tokenizer's training"),
        ),
        wrapper="model",
    ),
    KeyFormat(
        publisher="unilm",
        kinds=(SEGMENTATION,),
        has=("backbone." + QKV, "decode_head.*"),
        rules=SEGMENTATION_RULES,
        has_index_buffers=True,
        wrapper="state_dict",
    ),
    KeyFormat(
        publisher="timm",
        kinds=(CLASSIFIER, BACKBONE),
        has=(QKV,),
        lacks=("*relative_position_index", "mask_token", QKV_BIAS),
        recognized_by_layout=True,
        drops=_KEY_BIAS,
        wrappers=(None, "state_dict", "state_dict_ema"),
    ),
    KeyFormat(
        publisher="unilm",
        kinds=(CLASSIFIER, BACKBONE, MIM_V1, MIM_V2),
        has=(QKV,),
        lacks=(QKV_BIAS,),
        recognized_by_layout=True,
        drops=_KEY_BIAS,
        has_index_buffers=True,
        wrapper="model",
    ),
)
