"""DALL-E's discrete VAE in its published spellings. Source: openai/DALL-E, dall_e/encoder.py and decoder.py. Convolutions need no transposition."""

from __future__ import annotations

from beit.checkpoint.canonical import DALLE
from beit.checkpoint.dialects.form import Form, Rules, under

_LAST = (("weight", "w"), ("bias", "b"))


def _convs(source: str, target: str) -> Rules:
    """Rules for the weight and bias of one convolution."""
    return tuple((f"{source}.{theirs}", f"{target}.{ours}") for theirs, ours in _LAST)


_ENDS = (*_convs("blocks.input", "blocks.input"), *_convs("blocks.output.conv", "blocks.output.conv"))
_BLOCK = "blocks.group_{i}.block_{j}."

_OPENAI = Form(publisher="openai", kinds=DALLE, has=("blocks.input.w", _BLOCK + "res_path.conv_1.w"))
_PADDLE = Form(
    publisher="passl",
    kinds=DALLE,
    has=("blocks.input.weight", _BLOCK + "res_path.conv_1.weight"),
    rules=(*_ENDS, *under(_BLOCK, (("*.weight", "*.w"), ("*.bias", "*.b")), _BLOCK)),
    layout="paddle",
)
_HUGGINGFACE_BLOCK = "blocks.group_{i}.group.block_{j}."
_HUGGINGFACE = Form(
    publisher="huggingface",
    kinds=DALLE,
    has=("blocks.input.weight", _HUGGINGFACE_BLOCK + "res_path.path.conv_1.weight"),
    rules=(
        *_ENDS,
        *under(
            _HUGGINGFACE_BLOCK + "res_path.path.",
            (("*.weight", "*.w"), ("*.bias", "*.b")),
            _BLOCK + "res_path.",
        ),
        *under(_HUGGINGFACE_BLOCK, (("*.weight", "*.w"), ("*.bias", "*.b")), _BLOCK),
    ),
    aliases=(("image_codebook.*", "*"),),  # the codebook inside a FLAVA checkpoint
)
_CANONICAL = Form(publisher="canonical", kinds=DALLE, has=_OPENAI.has, layout="paddle")

FORMS = (_OPENAI, _PADDLE, _HUGGINGFACE, _CANONICAL)
