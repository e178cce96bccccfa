from __future__ import annotations

import numpy as np
import paddle
import pytest

import beit
from beit.beit import Beit
from beit.models.load import load_pretrained
from beit.models.upernet import PUBLISHED_LAYERS, UperNet, build_upernet
from tests.checkpoint import publishers
from tests.models.upernet_numpy import upernet
from tests.tiny import UPERNET, noise_images, upernet_config

HEADS, WIDTH, SIDE, PATCH = 3, 24, 4, 4
CLASSES = UPERNET["MODEL__NUM_CLASSES"]
LAYERS = (0, 1, 2, 3)
FORMS = {
    "i unilm": lambda s: {"meta": {}, "state_dict": publishers.with_index(s)},
    "f transformers": publishers.huggingface,
    "f transformers 5 in memory": lambda s: publishers.huggingface(s, runtime=True),
    "g4 mmseg": publishers.openmmlab,
}


def state(seed=0):
    return publishers.unilm_segmentation(np.random.default_rng(seed), side=SIDE, patch=PATCH)


@pytest.mark.parametrize("form", FORMS)
def test_published_files_have_the_reference_logits(form):
    model = build_upernet(upernet_config())
    report = load_pretrained(model, FORMS[form](state()))
    assert report.new == {}
    model.eval()
    images = noise_images()
    expected, _ = upernet(state(), images, HEADS, LAYERS)
    logits = model(paddle.to_tensor(images)).numpy()
    assert logits.shape == (2, CLASSES, SIDE * 4, SIDE * 4)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_training_returns_both_logits_with_batch_statistics():
    model = build_upernet(upernet_config())
    load_pretrained(model, FORMS["i unilm"](state()))
    images = noise_images()
    outputs = model(paddle.to_tensor(images))
    expected, auxiliary = upernet(state(), images, HEADS, LAYERS, training=True)
    assert set(outputs) == {"logits", "auxiliary"}
    np.testing.assert_allclose(outputs["logits"].numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(outputs["auxiliary"].numpy(), auxiliary, atol=1e-4)
    assert set(build_upernet(upernet_config(MODEL__AUXILIARY_CHANNELS=0))(paddle.to_tensor(images))) == {
        "logits"
    }


def test_chosen_layers_have_the_reference_logits():
    model = build_upernet(upernet_config(MODEL__OUT_INDICES=[0, 0, 1, 2]))
    load_pretrained(model, FORMS["f transformers"](state()))
    model.eval()
    images = noise_images()
    expected, _ = upernet(state(), images, HEADS, (0, 0, 1, 2))
    np.testing.assert_allclose(model(paddle.to_tensor(images)).numpy(), expected, atol=1e-4)
    other, _ = upernet(state(), images, HEADS, LAYERS)
    assert np.abs(other - expected).max() > 0.01
    # The output of the last block is not used, so it is frozen.
    assert {n for n, _ in learned(model) if n.startswith("backbone.blocks.3.")} == set()
    assert any(n.startswith("backbone.blocks.2.") for n, _ in learned(model))


@pytest.mark.parametrize("grid", [(6, 6), (3, 5), (2, 2)])
def test_another_size_at_run_time_equals_a_model_built_for_it(grid):
    size = (grid[0] * PATCH, grid[1] * PATCH)
    source, target = (
        build_upernet(upernet_config()),
        build_upernet(upernet_config(DATA__IMAGE_SIZE=list(size))),
    )
    for model in (source, target):
        load_pretrained(model, state_file())
        model.eval()
    images = paddle.to_tensor(noise_images(size=size))
    expected = target(images).numpy()
    np.testing.assert_allclose(source(images).numpy(), expected, atol=1e-5)
    assert expected.shape == (2, CLASSES, grid[0] * 4, grid[1] * 4)


def learned(model):
    """In Paddle the running statistics of BatchNorm are parameters."""
    return [(name, p) for name, p in model.named_parameters() if not p.stop_gradient]


def state_file():
    return FORMS["i unilm"](state())


def test_absolute_and_shared_positions_are_resized_too():
    options = {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
    small, large = (
        Beit(image_size=(n, n), patch_size=4, num_classes=0, embed_dim=12, depth=2, num_heads=2, **options)
        for n in (16, 24)
    )
    rng = np.random.default_rng(0)
    for name in ("pos_embed", "rel_pos_bias.relative_position_bias_table"):
        tensor = small.state_dict()[name]
        tensor.set_value(rng.standard_normal(tensor.shape).astype(np.float32))
    load_pretrained(large, {k: v.numpy() for k, v in small.state_dict().items()})
    small.eval(), large.eval()
    images = paddle.to_tensor(noise_images(size=(24, 24)))
    got = small.forward_outputs(images, any_size=True).pooler_output.numpy()
    np.testing.assert_allclose(got, large(images).numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="takes images of 16x16"):
        small(images)


def test_gradients_reach_every_parameter_at_another_size():
    model = build_upernet(upernet_config())
    outputs = model(paddle.to_tensor(noise_images(size=(24, 16))))
    sum(value.square().mean() for value in outputs.values()).backward()
    assert [name for name, p in learned(model) if p.grad is None] == []


@pytest.mark.parametrize(("size", "expected"), [(640, 163_407_980), (512, 163_080_812)])
def test_number_of_parameters_of_base(size, expected):
    assert count(768, 12, 12, size // 16) == expected
    # Check the formula with a model small enough to build here.
    own = sum(int(np.prod(p.shape)) for _, p in learned(build_upernet(upernet_config())))
    assert own == count(WIDTH, 4, HEADS, SIDE, patch=PATCH, classes=CLASSES, auxiliary=6)


@pytest.mark.parametrize(("size", "expected"), [(640, 441_271_084), (512, 440_398_636)])
def test_number_of_parameters_of_large(size, expected):
    assert count(1024, 24, 16, size // 16) == expected


def count(d, depth, heads, side, *, patch=16, classes=150, auxiliary=256):
    rows = (2 * side - 1) ** 2 + 3
    block = 3 * d * d + 2 * d + (d * d + d) + 2 * 4 * d * d + 5 * d + 4 * d + 2 * d + rows * heads
    encoder = d + (3 * patch * patch * d + d) + depth * block
    pyramid = 3 * (4 * d * d + d) + 2 * d
    module = lambda out, into, k: out * into * k * k + 2 * out  # noqa: E731
    head = 4 * module(d, d, 1) + module(d, 5 * d, 3) + 3 * module(d, d, 1) + 3 * module(d, d, 3)
    head += module(d, 4 * d, 3) + classes * (d + 1)
    return encoder + pyramid + head + module(auxiliary, d, 3) + classes * (auxiliary + 1)


def test_layers_for_rate_decay():
    model = build_upernet(upernet_config())
    for name, layer in {
        "backbone.cls_token": 0,
        "backbone.patch_embed.proj.weight": 0,
        "backbone.blocks.2.mlp.fc1.weight": 3,
        "backbone.fpn1.0.weight": 5,
        "decode_head.conv_seg.weight": 5,
        "auxiliary_head.convs.0.conv.weight": 5,
    }.items():
        assert model.layer_id(name) == layer
    model.freeze_layers(2)
    assert {model.layer_id(name) for name, _ in learned(model)} == {2, 3, 4, 5}


def test_the_heads_keep_initial_values_with_a_classifier_file():
    model = build_upernet(upernet_config())
    file = publishers.unilm_classifier(np.random.default_rng(0), width=WIDTH, depth=4, side=3, patch=PATCH)
    report = load_pretrained(model, file)
    assert all(name.startswith(("decode_head.", "auxiliary_head.", "backbone.fpn")) for name in report.new)
    np.testing.assert_array_equal(model.backbone.cls_token.numpy(), file["cls_token"])


def test_the_builder_is_exported_and_config_keys_have_an_effect():
    model = beit.build_upernet(upernet_config(MODEL__DECODER_CHANNELS=8, MODEL__POOL_SCALES=[1, 2]))
    assert model.decode_head.conv_seg.weight.shape == [CLASSES, 8, 1, 1]
    assert len(model.decode_head.psp_modules) == 2
    assert build_upernet(upernet_config(MODEL__DECODER_DROPOUT=0.3)).decode_head.dropout.p == 0.3
    assert PUBLISHED_LAYERS == {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
    deep = upernet_config(MODEL__OUT_INDICES=None, MODEL__DEPTH=12)
    assert build_upernet(deep).out_indices == (3, 5, 7, 11)


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="NUM_CLASSES = 0"):
        build_upernet(upernet_config(MODEL__NUM_CLASSES=0))
    with pytest.raises(ValueError, match="OUT_INDICES is not set and no published model has MODEL.DEPTH=4"):
        build_upernet(upernet_config(MODEL__OUT_INDICES=None))
    with pytest.raises(ValueError, match="expected four blocks of 0 to 3"):
        build_upernet(upernet_config(MODEL__OUT_INDICES=[0, 1, 2, 4]))
    with pytest.raises(ValueError, match="cannot be cut into patches of 4"):
        build_upernet(upernet_config())(paddle.zeros([1, 3, 17, 16]))
    with pytest.raises(ValueError, match="too small for the pyramid"):
        build_upernet(upernet_config())(paddle.zeros([1, 3, 4, 16]))
    assert issubclass(UperNet, paddle.nn.Layer)


def test_the_report_names_the_layers_and_warns_about_others():
    model = build_upernet(upernet_config())
    file = publishers.huggingface(state())
    report = load_pretrained(model, file)
    assert "features" not in str(report)  # for four blocks there is no published choice
    wide = publishers.unilm_segmentation(np.random.default_rng(0), side=SIDE, patch=PATCH, depth=12)
    config = upernet_config(MODEL__DEPTH=12, MODEL__OUT_INDICES=[1, 3, 5, 9], TASK="segment")
    report = load_pretrained(build_upernet(config), publishers.huggingface(wide))
    assert "trained on the outputs of blocks [3, 5, 7, 11]" in str(report)
    assert "MODEL.OUT_INDICES [1, 3, 5, 9]" in str(report)
    assert any("as transformers reads the file" in line for line in report.mismatches(config))
    trained = upernet_config(MODEL__DEPTH=12, MODEL__OUT_INDICES=[3, 5, 7, 11], TASK="segment")
    assert not any("OUT_INDICES" in line for line in report.mismatches(trained))
    other = upernet_config(MODEL__DEPTH=12, MODEL__OUT_INDICES=[2, 5, 8, 11], TASK="segment")
    assert any("which no publisher uses" in line for line in report.mismatches(other))


def test_recomputation_does_not_change_gradients():
    gradients = []
    for flag in (False, True):
        model = build_upernet(upernet_config(TRAIN__RECOMPUTE=flag))
        load_pretrained(model, state_file())
        outputs = model(paddle.to_tensor(noise_images()))
        sum(value.square().mean() for value in outputs.values()).backward()
        gradients.append({name: p.grad.numpy() for name, p in learned(model)})
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, atol=1e-6, err_msg=name)
