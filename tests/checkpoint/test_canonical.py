"""What names and shapes say about a state, at the published sizes but without their memory."""

from __future__ import annotations

import numpy as np
import pytest

from beit.checkpoint.canonical import (
    depth_of,
    describe,
    is_linear_weight,
    kind_of,
    missing_names,
    shapes_of,
)
from tests.checkpoint import publishers

BASE = {"width": 768, "depth": 12, "heads": 12, "patch": 16}
LARGE = {"width": 1024, "depth": 24, "heads": 16, "patch": 16}

# (network, its options, published number of parameters)
PUBLISHED = {
    "base 224": (publishers.unilm_classifier, {**BASE, "side": 14, "classes": 1000}, 86_530_984),
    "base 384": (publishers.unilm_classifier, {**BASE, "side": 24, "classes": 1000}, 86_744_104),
    "large 224": (publishers.unilm_classifier, {**LARGE, "side": 14, "classes": 1000}, 304_430_568),
    "large 512": (publishers.unilm_classifier, {**LARGE, "side": 32, "classes": 1000}, 305_674_728),
    "base 22k": (publishers.unilm_classifier, {**BASE, "side": 14, "classes": 21841}, 102_557_713),
    "base MIM v1": (publishers.unilm_mim, {**BASE, "side": 14, "vocabulary": 8192}, 91_965_776),
    "large MIM v1": (publishers.unilm_mim, {**LARGE, "side": 14, "vocabulary": 8192}, 311_534_016),
    "base MIM v2": (
        publishers.unilm_mim,
        {**BASE, "side": 14, "vocabulary": 8192, "version": 2},
        106_143_056,
    ),
    "large MIM v2": (
        publishers.unilm_mim,
        {**LARGE, "side": 14, "vocabulary": 8192, "version": 2},
        336_728_512,
    ),
    "DALL-E encoder": (publishers.dalle, {"hidden": 256, "codes": 8192}, 53_786_240),
}


@pytest.fixture
def weightless(monkeypatch):
    monkeypatch.setattr(
        publishers, "draw", lambda rng, *shape, scale=0.1: np.broadcast_to(np.float32(0), shape)
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_architecture_of_published_sizes(name, weightless):
    draw, options, count = PUBLISHED[name]
    state = publishers.paddle_layout(draw(None, **options))
    assert sum(array.size for array in state.values()) == count
    kind = kind_of(shapes_of(state))
    assert missing_names(state, kind) == []
    found = describe(shapes_of(state), kind)
    if draw is publishers.dalle:
        assert (kind, found.depth, found.width) == ("dalle_encoder", 0, 0)
        return
    assert (found.depth, found.width, found.num_heads) == (
        options["depth"],
        options["width"],
        options["heads"],
    )
    assert found.image_size == 16 * options["side"]
    assert found.mlp_width == 4 * options["width"]
    assert found.num_classes == options.get("classes", 0)
    assert found.pooling == ("mean" if draw is publishers.unilm_classifier else "token")


def test_linear_weights_by_name():
    """attn.proj is square and tables are two-dimensional: shapes are ambiguous."""
    linear = (
        "blocks.0.attn.proj.weight",
        "backbone.blocks.3.mlp.fc1.weight",
        "head.weight",
        "lm_head.weight",
    )
    others = (
        *(
            "blocks.0.attn.relative_position_bias_table",
            "quantize.embedding.weight",
            "patch_embed.proj.weight",
        ),
        *("decode_head.conv_seg.weight", "blocks.0.norm1.weight", "decode_head.fpn_bottleneck.conv.weight"),
    )
    assert all(map(is_linear_weight, linear))
    assert not any(map(is_linear_weight, others))


def test_missing_tensors_are_named():
    rng = np.random.default_rng(0)
    state = publishers.paddle_layout(publishers.unilm_mim(rng, version=2))
    for gone in (
        "blocks.1.gamma_2",
        "cls_pt_layers.0.attn.q_bias",
        "lm_head.bias",
        "mask_token",
        "norm.weight",
        "cls_token",
    ):
        partial = {name: array for name, array in state.items() if name != gone}
        assert missing_names(partial, "mim_v2") == [gone]
    assert depth_of(state) == 2
    assert depth_of({"a": 1}) == 0
