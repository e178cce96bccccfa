"""Models that look like BEiT and are not: refused with their names."""

from __future__ import annotations

from collections.abc import Iterable

from beit.checkpoint.dialects.form import any_match

# (a name pattern only they have, what the file is), the first that fits counts.
_RELATIVES = (
    ("data2vec_vision.*", "Data2VecVision, another training of BEiT's architecture, not a BEiT checkpoint"),
    ("beit3.*", "BEiT-3, a multimodal model with another architecture"),
    ("regressor_and_decoder.*", "CAE, which has a regressor and a decoder beside a BEiT-like encoder"),
    ("*pretrained.model.blocks.{i}.*", "a MiDaS or DPT depth model, which wraps timm's BEiT"),
    ("*blocks.{i}.attn.q_proj.weight", "EVA, another architecture (SwiGLU, rotary positions)"),
    ("*blocks.{i}.mlp.fc1_g.weight", "EVA, another architecture (SwiGLU, rotary positions)"),
    ("codebook.weight", "a 'customized' discrete VAE, which no published BEiT was trained with"),
    ("*blocks.{i}.attn.qkv.bias", "a plain vision transformer: its keys have a bias, BEiT's have none"),
    ("vit.encoder.layer.{i}.*", "a plain vision transformer of transformers, not a BEiT"),
    ("*layers.{i}.blocks.{j}.*", "a Swin transformer or another hierarchical model"),
    ("*layer1.0.conv1.weight", "a ResNet"),
)


def describe_stranger(names: Iterable[str]) -> str:
    """What a file with these tensor names is, as far as the names tell."""
    known = list(names)
    for pattern, description in _RELATIVES:
        if any_match(pattern, known):
            return description
    shown = ", ".join(known[:4])
    return f"no known form of BEiT, VQ-KD, DALL-E or UPerNet (its first tensors: {shown or 'none'})"
