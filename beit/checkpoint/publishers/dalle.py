"""DALL-E's discrete VAE as OpenAI, PASSL and transformers (FLAVA) publish it. It has no Linear weights to transpose.

Source: openai/DALL-E, dall_e/encoder.py and decoder.py.
"""

from __future__ import annotations

from beit.checkpoint.key_format import KeyFormat, under
from beit.metadata.architecture import DALLE, DALLE_ENCODER, NATIVE

_BLOCK = "blocks.group_{i}.block_{j}."
_FLAVA_BLOCK = "blocks.group_{i}.group.block_{j}."
_PARTS = (("*.weight", "*.w"), ("*.bias", "*.b"))
_ENDS = (
    *under("blocks.input", _PARTS, "blocks.input"),
    *under("blocks.output.conv", _PARTS, "blocks.output.conv"),
)
_OPENAI = (_BLOCK + "res_path.conv_1.w", "blocks.input.w")

FORMATS = (
    KeyFormat(publisher="openai", kinds=DALLE, has=_OPENAI),
    KeyFormat(
        publisher="passl",
        kinds=DALLE,
        has=("blocks.input.weight", _BLOCK + "res_path.conv_1.weight"),
        rules=(*_ENDS, *under(_BLOCK, _PARTS, _BLOCK)),
        layout="paddle",
    ),
    KeyFormat(
        publisher="huggingface",
        kinds=DALLE,
        has=("blocks.input.weight", _FLAVA_BLOCK + "res_path.path.conv_1.weight"),
        rules=(
            *_ENDS,
            *under(_FLAVA_BLOCK + "res_path.path.", _PARTS, _BLOCK + "res_path."),
            *under(_FLAVA_BLOCK, _PARTS, _BLOCK),
        ),
        written=(DALLE_ENCODER,),  # FlavaImageCodebook has no decoder
    ),
    KeyFormat(publisher=NATIVE, kinds=DALLE, has=_OPENAI, layout="paddle"),
)
