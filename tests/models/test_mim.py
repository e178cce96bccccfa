"""Masked image modeling: files of every publisher, sizes, initial values, the effect of masks."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

import beit
from beit.models.load import load_pretrained
from beit.models.mim import BeitForMaskedImageModeling, MimLogits
from tests.checkpoint import publishers
from tests.reference_numpy import predict_tokens

TOLERANCE = 1e-5
SIZES = {
    "image_size": (12, 12),
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 2,
    "num_heads": 3,
    "vocab_size": 11,
}
SHARED = {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
POSITIONS = {"use_rel_pos_bias": False, "use_abs_pos_emb": True, "init_values": 0.0}

# How each publisher writes a pre-training file of v1 (c2, f, g2, b) and v2 (d2, g3), from unilm's names.
FORMS = {
    "unilm": publishers.unilm_file,
    "unilm, deepspeed": lambda s: publishers.unilm_file(s, "module"),
    "PASSL": publishers.passl,
    "transformers": publishers.huggingface,
    "openmmlab": publishers.openmmlab,
    "canonical": publishers.paddle_layout,
}
CASES = [(1, form) for form in FORMS] + [(2, form) for form in ("unilm", "openmmlab", "canonical")]


def build(version=1, **options):
    model = BeitForMaskedImageModeling(
        **SIZES | SHARED | {"early_layers": 1 if version == 2 else 0} | options
    )
    model.eval()
    return model


def inputs(rng, batch=3, side=12, patches=9):
    images = rng.standard_normal((batch, 3, side, side)).astype(np.float32)
    return images, rng.random((batch, patches)) < 0.4


def branches(model, images, mask):
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images), paddle.to_tensor(mask))
    return [one.numpy() for one in (logits if isinstance(logits, MimLogits) else [logits])]


def assert_equal_to_numpy(model, unilm, rng, early):
    images, mask = inputs(rng)
    expected = predict_tokens(unilm, images, mask, 3, early)
    found = branches(model, images, mask)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == (mask.sum(), 11)
        assert np.abs(theirs).max() > 0.1
        assert np.abs(ours - theirs).max() < TOLERANCE


@pytest.mark.parametrize(("version", "form"), CASES)
def test_files_of_every_publisher_have_the_logits_of_a_numpy_forward(version, form):
    rng = np.random.default_rng(0)
    unilm = publishers.unilm_mim(rng, version=version)
    model = build(version)
    report = load_pretrained(model, FORMS[form](unilm))
    assert report.info.kind == f"mim_v{version}"
    assert (report.new, report.info.unknown) == ({}, ())
    assert_equal_to_numpy(model, unilm, rng, early=1 if version == 2 else 0)


def test_absolute_positions_without_tables_or_layer_scale():
    """beit_base_patch16_224_pt1k_800ep, key format c3."""
    rng = np.random.default_rng(1)
    unilm = publishers.unilm_mim(rng, positions=True)
    model = build(**POSITIONS, use_shared_rel_pos_bias=False)
    load_pretrained(model, publishers.unilm_file(unilm))
    assert_equal_to_numpy(model, unilm, rng, early=0)


def test_an_unshared_head():
    rng = np.random.default_rng(2)
    unilm = publishers.unilm_mim(rng, version=2)
    unilm |= publishers.affine(rng, "cls_pt_norm", 24) | publishers.linear(rng, "cls_pt_lm_head", 11, 24)
    model = build(2, shared_lm_head=False)
    stored = publishers.paddle_layout(unilm)
    stored["cls_pt_lm_head.weight"] = unilm["cls_pt_lm_head.weight"].T
    load_pretrained(model, stored)
    assert_equal_to_numpy(model, unilm, rng, early=1)


def test_v2_files_fit_a_v1_model_but_not_vice_versa():
    rng = np.random.default_rng(3)
    report = load_pretrained(build(), publishers.unilm_file(publishers.unilm_mim(rng, version=2)))
    assert any("patch aggregation" in why for why in report.dropped.values())
    with pytest.raises(ValueError, match=r"cls_pt_layers\.0\.attn"):
        load_pretrained(build(2), publishers.unilm_file(publishers.unilm_mim(rng)))


def test_tables_of_another_grid_are_resized():
    model = build(2, image_size=(16, 20))
    unilm = publishers.unilm_mim(np.random.default_rng(3), version=2)
    report = load_pretrained(model, publishers.unilm_file(unilm))
    name = "rel_pos_bias.relative_position_bias_table"
    assert list(report.resized) == [name]
    table = model.state_dict()[name].numpy()
    assert table.shape == (7 * 9 + 3, 3)
    np.testing.assert_array_equal(table[-3:], unilm[name][-3:])


def test_branches_are_named():
    rng = np.random.default_rng(4)
    images, mask = inputs(rng)
    logits = build(2)(paddle.to_tensor(images), paddle.to_tensor(mask))
    assert logits._fields == ("main", "cls_pt")
    assert logits.main.shape == logits.cls_pt.shape == [mask.sum(), 11]


def test_logits_are_ordered_by_image_and_patch():
    rng = np.random.default_rng(5)
    images, mask = inputs(rng)
    model = build()
    together = branches(model, images, mask)[0]
    one_by_one = [branches(model, images[k : k + 1], mask[k : k + 1])[0] for k in range(3)]
    np.testing.assert_allclose(together, np.concatenate(one_by_one), atol=1e-5)
    everything = branches(model, images[:1], np.ones((1, 9), bool))[0]
    assert everything.shape == (9, 11)


@pytest.mark.parametrize("version", [1, 2])
def test_logits_depend_on_visible_pixels_only(version):
    rng = np.random.default_rng(6)
    images, mask = inputs(rng, batch=1)
    model = build(version)
    masked = mask.reshape(1, 1, 3, 3).repeat(4, axis=2).repeat(4, axis=3)
    noise = rng.standard_normal(images.shape).astype(np.float32)
    before = branches(model, images, mask)
    for found, expected in zip(branches(model, np.where(masked, noise, images), mask), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(branches(model, np.where(masked, images, noise), mask), before, strict=True):
        assert np.abs(found - expected).max() > 1e-4


def test_only_masked_positions_have_a_loss():
    """The gradient of the head's input is zero for visible patches (a question in unilm issue 388)."""
    rng = np.random.default_rng(7)
    images, mask = inputs(rng, batch=2)
    model = build()
    model.norm = paddle.nn.Identity()
    states = []
    model.blocks[-1].register_forward_post_hook(lambda layer, given, out: states.append(out))
    model(paddle.to_tensor(images), paddle.to_tensor(mask)).square().sum().backward()
    assert len(states) == 1
    gradient = paddle.grad(
        model(paddle.to_tensor(images), paddle.to_tensor(mask)).square().sum(), [states[-1]]
    )[0].numpy()
    assert np.all(gradient[:, 0] == 0)
    assert np.all(gradient[:, 1:][~mask] == 0)
    assert np.all(np.abs(gradient[:, 1:][mask]).max(-1) > 0)


# ---- sizes -------------------------------------------------------------------------------------------------------

PUBLISHED = {
    "beit_base_patch16_224_pt22k": 91_965_776,
    "beit_large_patch16_224_pt22k": 311_534_016,
    "beitv2_base_patch16_224_pt1k": 106_143_056,
    "beitv2_large_patch16_224_pt1k": 336_728_512,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts(name, monkeypatch):
    """Counted on two shallow models, since every block has the same parameters."""
    monkeypatch.setattr(BeitForMaskedImageModeling, "_init_pretraining", lambda self: None)
    config = beit.get_config(name)

    def count(depth):
        early = min(config.MODEL.EARLY_LAYERS, depth)
        model = beit.build_mim(beit.get_config(name, ["MODEL.DEPTH", depth, "MODEL.EARLY_LAYERS", early]))
        return sum(parameter.size for parameter in model.parameters())

    with paddle.LazyGuard():  # shapes without values
        shallow, deeper = count(1), count(2)
    assert shallow + (config.MODEL.DEPTH - 1) * (deeper - shallow) == PUBLISHED[name]


def test_models_of_any_size_can_be_configured():
    opts = ["DATA.IMAGE_SIZE", [8, 16], "MODEL.PATCH_SIZE", 4, "MODEL.EMBED_DIM", 12, "MODEL.NUM_HEADS", 2]
    opts += ["MODEL.DEPTH", 3, "MODEL.EARLY_LAYERS", 2, "MODEL.HEAD_LAYERS", 1, "TOKENIZER.NUM_CODES", 5]
    opts += ["MODEL.USE_REL_POS_BIAS", False, "MODEL.USE_SHARED_REL_POS_BIAS", True]
    model = beit.build_mim(beit.get_config(opts=[*opts, "MODEL.SHARED_LM_HEAD", False]))
    mask = paddle.to_tensor(np.arange(16).reshape(2, 8) % 3 == 0)
    logits = model(paddle.randn([2, 3, 8, 16]), mask)
    assert logits.main.shape == logits.cls_pt.shape == [6, 5]
    assert len(model.cls_pt_layers) == 1
    assert model.cls_pt_lm_head is not None


# ---- initial values ----------------------------------------------------------------------------------------------


# a normal distribution truncated at one deviation has sqrt(1 - 2 pdf(1) / (2 cdf(1) - 1)) of the deviation
TRUNCATED = 0.02 * math.sqrt(1 - 2 * math.exp(-0.5) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(0.5)))


def expected_start(name, shape, early):
    """Standard deviation and largest value of an initial tensor, as unilm/beit2/modeling_pretrain.py draws it.

    A Linear of PyTorch draws weight and bias uniformly from ±1 / sqrt(inputs); `_init_weights` draws weights from a
    normal distribution truncated at one deviation and sets biases to 0, but `cls_pt_layers` do not exist yet when it
    runs. `fix_init` divides two weights of the k-th block from 1 by sqrt(2 k).
    """
    group, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    scale = 1.0
    if rest in ("attn.proj.weight", "mlp.fc2.weight"):
        scale = 1 / math.sqrt(2 * (int(number) + 1 + (early if group == "cls_pt_layers" else 0)))
    if "gamma" in name or (name.endswith("weight") and "norm" in name):
        return 0.0, 0.3 if "gamma" in name else 1.0
    if group == "cls_pt_layers" and rest.startswith(("attn.qkv.", "attn.proj.", "mlp.")):
        inputs = {"mlp.fc1.bias": shape[0] // 4, "mlp.fc2.bias": shape[0] * 4}.get(rest, shape[0])
        return scale / math.sqrt(3 * inputs), scale / math.sqrt(inputs)
    if name.endswith((".bias", "_bias", "_table")):
        return 0.0, 0.0
    return scale * TRUNCATED, scale * 0.02


def test_initial_values_are_those_of_the_official_code():
    paddle.seed(0)
    sizes = {"embed_dim": 768, "num_heads": 12, "init_values": 0.3, "vocab_size": 300}
    model = build(2, shared_lm_head=False, use_abs_pos_emb=True, **sizes)
    for name, value in model.state_dict().items():
        values = value.numpy().astype(np.float64)
        deviation, largest = expected_start(name, values.shape, early=1)
        # four standard errors of a deviation, for the wider of the two distributions
        tolerance = 4 / math.sqrt(2 * values.size)
        assert values.std() == pytest.approx(deviation, rel=tolerance, abs=1e-6), name
        assert abs(values.mean()) <= 4 * deviation / math.sqrt(values.size) or deviation == 0, name
        assert np.abs(values).max() <= largest * (1 + 1e-6), name
        assert np.abs(values).max() >= (0.98 if values.size > 100 else 0.5) * largest, name
    # spelled out once, so that the function above is not the only witness
    start = {name: float(value.numpy().std()) for name, value in model.state_dict().items()}
    assert start["cls_pt_layers.0.attn.qkv.weight"] == pytest.approx(0.0208, abs=1e-4)
    assert start["cls_pt_layers.0.mlp.fc1.bias"] == pytest.approx(0.0208, abs=1e-3)
    assert start["cls_pt_layers.1.mlp.fc2.weight"] == pytest.approx(0.00425, abs=1e-4)  # .0104 / sqrt(6)
    assert start["blocks.0.attn.qkv.weight"] == pytest.approx(0.0108, abs=1e-4)
    assert start["cls_pt_lm_head.weight"] == pytest.approx(0.0108, abs=1e-4)


@pytest.mark.parametrize(
    ("depth", "early", "head", "expected"),
    [
        (12, 9, 2, (np.linspace(0, 0.1, 12), np.linspace(0, 0.1, 12)[9:11])),
        (2, 2, 2, (np.linspace(0, 0.1, 2), np.linspace(0, 0.1, 4)[2:])),
        (12, 12, 2, (np.linspace(0, 0.1, 12), np.linspace(0, 0.1, 14)[12:])),
        (3, 0, 2, (np.linspace(0, 0.1, 3), [])),
    ],
)
def test_drop_path_rates_rise_linearly_into_the_branch(depth, early, head, expected):
    model = build(depth=depth, early_layers=early, head_layers=head, drop_path_rate=0.1)
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx(expected[0])
    assert [block.drop_path.rate for block in model.cls_pt_layers or []] == pytest.approx(expected[1])
    assert model.depth == len(model.blocks) == depth


def test_recomputation_does_not_change_gradients():
    rng = np.random.default_rng(8)
    images, mask = inputs(rng)
    gradients = []
    for recompute in (False, True):
        paddle.seed(0)
        model = build(2, recompute_blocks=recompute)
        model.train()
        logits = model(paddle.to_tensor(images), paddle.to_tensor(mask))
        (logits.main.square().sum() + logits.cls_pt.square().sum()).backward()
        gradients.append({name: value.grad.numpy() for name, value in model.named_parameters()})
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, atol=1e-5, err_msg=name)


# ---- errors ------------------------------------------------------------------------------------------------------


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match=r"MODEL.EARLY_LAYERS = 3, expected 1 to MODEL.DEPTH = 2"):
        build(early_layers=3)
    with pytest.raises(
        ValueError, match=r"set MODEL.USE_REL_POS_BIAS False and MODEL.USE_SHARED_REL_POS_BIAS True"
    ):
        build(2, use_rel_pos_bias=True)


@pytest.mark.parametrize("mask", [np.ones((2, 8), bool), np.ones((2, 9), np.int64), np.ones((1, 9), bool)])
def test_invalid_masks_are_refused(mask):
    with pytest.raises(ValueError, match=r"expected bool \[batch, patches\] = \[2, 9\]"):
        build()(paddle.zeros([2, 3, 12, 12]), paddle.to_tensor(mask))
