"""Tables of tensor names: of every publisher whose files are read, and of models that are refused."""

from __future__ import annotations

from collections.abc import Iterable

from beit.checkpoint.key_format import KeyFormat, any_match
from beit.checkpoint.publishers import dalle, huggingface, openmmlab, paddle, teachers, unilm
from beit.containers.errors import listed

# The first format that fits is taken: distinctive names first, names shared by several publishers last.
FORMATS: tuple[KeyFormat, ...] = (
    *huggingface.FORMATS,
    *openmmlab.FORMATS,
    *dalle.FORMATS,
    *paddle.FORMATS,
    *unilm.FORMATS,
)
TEACHER_FORMATS: tuple[KeyFormat, ...] = teachers.FORMATS
"""Vision transformers of CLIP and DINO, which VQ-KD learns from and nothing else reads."""
PUBLISHERS = tuple(sorted({row.publisher for row in FORMATS if row.written != ()}))
"""Publishers whose files can be written."""

# (a name pattern that only they have, what the file is); the first match counts.
_WITH_AN_ENCODER = (
    ("*data2vec_vision.*", "Data2VecVision, another training of BEiT's architecture, not a BEiT checkpoint"),
    ("*regressor_and_decoder.*", "CAE, which has a regressor and a decoder beside a BEiT-like encoder"),
    ("*pretrained.model.blocks.{i}.*", "a MiDaS or DPT depth model, which wraps timm's BEiT"),
)
"""Models with a part whose tensors have the names of a BEiT."""
_UNSUPPORTED = (
    *_WITH_AN_ENCODER,
    ("*beit3.*", "BEiT-3, a multimodal model with another architecture"),
    ("*blocks.{i}.attn.q_proj.weight", "EVA, another architecture (SwiGLU, rotary positions)"),
    ("*blocks.{i}.mlp.fc1_g.weight", "EVA, another architecture (SwiGLU, rotary positions)"),
    ("codebook.weight", "a 'customized' discrete VAE, which no published BEiT was trained with"),
    ("*blocks.{i}.attn.qkv.bias", "a plain vision transformer: its keys have a bias, BEiT's have none"),
    ("*attention.attention.key.bias", "a plain vision transformer of transformers, not a BEiT"),
    ("*vit.encoder.layer.{i}.*", "a plain vision transformer of transformers, not a BEiT"),
    ("*layers.{i}.blocks.{j}.*", "a Swin transformer or another hierarchical model"),
    ("*layer1.0.conv1.weight", "a ResNet"),
)


def wraps_an_encoder(names: Iterable[str]) -> bool:
    """Whether tensor names are those of another model that contains a BEiT-like encoder."""
    names = list(names)
    return any(any_match(pattern, names) for pattern, _ in _WITH_AN_ENCODER)


def describe_unsupported(names: Iterable[str], known: str) -> str:
    """A phrase that says what a file with these tensor names is; `known` names the models that can be read."""
    names = list(names)
    for pattern, description in _UNSUPPORTED:
        if any_match(pattern, names):
            return description
    return f"no known format of {known} (its first tensors: {listed(names, 4) or 'none'})"
