"""Every publisher's classifier loads, and gives the logits of an independent NumPy forward."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.models.load import load_pretrained
from tests.checkpoint import publishers
from tests.reference_numpy import classify
from tests.tiny import largest_difference, tiny_beit

TOLERANCE = 1e-5

# (who, how the publisher writes unilm's classifier, what the report calls it)
FORMS = {
    "a PaddleViT": (publishers.paddlevit, "paddlevit"),
    "a PaddleViT training": (lambda s: {"model": publishers.paddlevit(s), "epoch": 3}, "paddlevit"),
    "b PASSL": (publishers.passl, "passl"),
    "b PASSL fine-tuned": (lambda s: {"state_dict": publishers.passl(s, head="head")}, "passl"),
    "c1 unilm": (publishers.unilm_file, "unilm"),
    "d1 unilm beit2, deepspeed": (lambda s: publishers.unilm_file(s, "module"), "unilm"),
    "d1 data parallel": (
        lambda s: {"model": {f"module.{k}": v for k, v in publishers.with_index(s).items()}},
        "unilm",
    ),
    "e timm": (dict, "timm"),
    "f transformers": (publishers.huggingface, "huggingface"),
    "f transformers 5 in memory": (lambda s: publishers.huggingface(s, runtime=True), "huggingface"),
    "f transformers, no prefix": (
        lambda s: {k.removeprefix("beit."): v for k, v in publishers.huggingface(s).items()},
        "huggingface",
    ),
    "g1 mmpretrain": (publishers.openmmlab, "openmmlab"),
    "canonical": (publishers.paddle_layout, "canonical"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("pooling", ["mean", "token"])
def test_logits_equal_the_numpy_forward(form, pooling):
    rng = np.random.default_rng(0)
    unilm = publishers.unilm_classifier(rng, pooling=pooling)
    write, publisher = FORMS[form]
    model = tiny_beit(pooling=pooling)
    report = load_pretrained(model, write(unilm))
    assert (report.info.publisher, report.info.kind) == (publisher, "classifier")
    assert (report.new, report.info.unknown) == ({}, ())
    assert report.num_parameters == sum(array.size for array in unilm.values())
    assert largest_difference(model, unilm, 3, rng, 12) < TOLERANCE


def test_paddleclas_has_no_patch_bias_and_a_fused_bias():
    rng = np.random.default_rng(1)
    unilm = publishers.unilm_classifier(rng, pooling="token")
    unilm["patch_embed.proj.bias"] = np.zeros(24, np.float32)
    model = tiny_beit(pooling="token")
    report = load_pretrained(model, publishers.paddleclas(unilm))
    assert report.info.publisher == "paddleclas"
    assert "proj" in report.dropped
    assert any("patch_embed.proj.bias" in note for note in report.info.notes)
    assert largest_difference(model, unilm, 3, rng, 12) < TOLERANCE


@pytest.fixture(scope="module")
def base():
    """Base width, two blocks: unilm's state, images and the NumPy logits."""
    rng = np.random.default_rng(2)
    unilm = publishers.unilm_classifier(rng, classes=10, width=768, depth=2, heads=12, side=2, patch=16)
    images = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    return unilm, images, classify(unilm, images, 12)


@pytest.mark.parametrize(
    "form", ["a PaddleViT", "b PASSL", "c1 unilm", "e timm", "f transformers", "g1 mmpretrain"]
)
def test_logits_at_base_width(form, base):
    unilm, images, expected = base
    model = tiny_beit(classes=10, width=768, depth=2, heads=12, side=2, patch=16)
    load_pretrained(model, FORMS[form][0](unilm))
    with paddle.no_grad():
        assert np.abs(model(paddle.to_tensor(images)).numpy() - expected).max() < TOLERANCE


def test_absolute_positions_without_tables_or_layer_scale():
    rng = np.random.default_rng(3)
    unilm = publishers.unilm_classifier(rng, tables=False, positions=True, scale=False)
    model = tiny_beit(use_rel_pos_bias=False, use_abs_pos_emb=True, init_values=0.0)
    load_pretrained(model, publishers.huggingface(unilm))  # DiT
    assert largest_difference(model, unilm, 3, rng, 12) < TOLERANCE
