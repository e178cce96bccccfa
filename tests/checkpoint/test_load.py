"""`load_pretrained`: what is loaded, and what is refused with which message. Nothing is loaded in part."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from beit.checkpoint.files import write
from beit.containers.errors import CheckpointError
from beit.models.load import load_pretrained
from beit.positions import resize_relative_position_bias
from tests.checkpoint import publishers
from tests.tiny import tiny_beit

TABLE = "blocks.0.attn.relative_position_bias_table"


@pytest.fixture
def unilm():
    return publishers.unilm_classifier(np.random.default_rng(0))


def snapshot(model):
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def refused(model, tree, match, **options):
    """Check that loading is refused and leaves the model as it was; returns the message."""
    before = snapshot(model)
    with pytest.raises(ValueError, match=match) as caught:
        load_pretrained(model, tree, **options)
    for name, array in snapshot(model).items():
        np.testing.assert_array_equal(array, before[name])
    return str(caught.value)


def test_tables_are_resized_to_the_model(unilm):
    model = tiny_beit(side=5)
    report = load_pretrained(model, publishers.unilm_file(unilm))
    expected = resize_relative_position_bias(unilm[TABLE], (3, 3), (5, 5))
    np.testing.assert_array_equal(model.state_dict()[TABLE].numpy(), expected)
    assert report.resized[TABLE] == "[28, 3] to [84, 3]"
    linear = load_pretrained(model, publishers.unilm_file(unilm), interpolation="linear")
    assert linear.resized.keys() == report.resized.keys()
    assert np.abs(model.state_dict()[TABLE].numpy() - expected).max() > 1e-3


def test_tables_are_resized_to_a_rectangular_model(unilm):
    model = tiny_beit()
    rectangular = type(model)(
        image_size=(12, 20), patch_size=4, num_classes=5, embed_dim=24, depth=2, num_heads=3
    )
    load_pretrained(rectangular, publishers.unilm_file(unilm))
    expected = resize_relative_position_bias(unilm[TABLE], (3, 3), (3, 5))
    np.testing.assert_array_equal(rectangular.state_dict()[TABLE].numpy(), expected)


def test_a_new_head_keeps_its_initial_values(unilm):
    model = tiny_beit(classes=7)
    before = snapshot(model)
    report = load_pretrained(model, publishers.unilm_file(unilm))
    assert sorted(report.new) == ["head.bias", "head.weight"]
    np.testing.assert_array_equal(model.head.weight.numpy(), before["head.weight"])
    np.testing.assert_array_equal(model.cls_token.numpy(), unilm["cls_token"])


def test_a_classifier_starts_from_a_pretrained_encoder():
    mim = publishers.unilm_mim(np.random.default_rng(1), version=2)
    model = tiny_beit()
    before = snapshot(model)
    report = load_pretrained(model, publishers.unilm_file(mim))
    assert sorted(report.new) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    np.testing.assert_array_equal(model.fc_norm.weight.numpy(), before["fc_norm.weight"])
    np.testing.assert_array_equal(
        model.blocks[1].attn.relative_position_bias_table.numpy(),
        mim["rel_pos_bias.relative_position_bias_table"],
    )
    assert report.dropped["lm_head.weight"] == "used in pre-training only"


@pytest.mark.parametrize(
    ("write_as", "default"), [(publishers.paddlevit, "averaged"), (publishers.with_index, "trained")]
)
def test_averaged_weights_are_taken_as_the_publisher_does_or_on_request(unilm, write_as, default):
    """PaddleViT's evaluation takes model_ema, the official one takes model."""
    averaged = {name: array + 1 if name == "cls_token" else array for name, array in unilm.items()}
    tree = {"model": write_as(unilm), "model_ema": write_as(averaged), "optimizer": {"lr": 0.1}}
    model = tiny_beit()
    tokens = {"trained": unilm["cls_token"], "averaged": averaged["cls_token"]}
    for ema, expected in ((None, default), (True, "averaged"), (False, "trained")):
        report = load_pretrained(model, tree, ema=ema)
        np.testing.assert_array_equal(model.cls_token.numpy(), tokens[expected])
        assert report.info.ema == (expected == "averaged")
    refused(model, {"model": write_as(unilm)}, "holds no averaged weights", ema=True)
    refused(model, {"model_ema": write_as(unilm)}, "holds averaged weights only", ema=False)


def test_a_file_of_another_size_is_refused_with_both_sizes(unilm):
    text = refused(
        tiny_beit(width=48, depth=3), publishers.unilm_file(unilm), "depth 2, width 24.*depth 3, width 48"
    )
    assert "MODEL.EMBED_DIM" in text
    assert "cls_token  file [1, 1, 24]  model [1, 1, 48]" in text
    assert "not in the file: blocks.2.attn.proj.bias" in text
    assert "more" in text
    assert len(text.splitlines()) < 45


HINTS = {
    "pooling": ({"pooling": "token"}, {}, "by fc_norm, the mean of patches: set MODEL.USE_MEAN_POOLING True"),
    "token": ({}, {"pooling": "token"}, "by norm, the class token: set MODEL.USE_MEAN_POOLING False"),
    "tables": ({"use_rel_pos_bias": False}, {}, "set MODEL.USE_REL_POS_BIAS True"),
    "no tables": (
        {},
        {"tables": False},
        "the file has no relative position tables .* set MODEL.USE_REL_POS_BIAS False",
    ),
    "positions": ({}, {"positions": True}, "set MODEL.USE_ABS_POS_EMB True"),
    "layer scale": ({"init_values": 0.0}, {}, "set MODEL.INIT_VALUES 0.1"),
    "shared": (
        {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        {},
        "set MODEL.USE_SHARED_REL_POS_BIAS False and MODEL.USE_REL_POS_BIAS True",
    ),
    "heads": ({"heads": 4}, {}, "the file has 3 heads, the model 4"),
    "mlp": ({"mlp_ratio": 2.0}, {}, "set MODEL.MLP_RATIO"),
}


@pytest.mark.parametrize("case", HINTS)
def test_errors_name_the_config_key_to_set(case):
    model_options, file_options, words = HINTS[case]
    unilm = publishers.unilm_classifier(np.random.default_rng(2), **file_options)
    refused(tiny_beit(**model_options), publishers.unilm_file(unilm), words)


def test_missing_and_unknown_tensors_are_refused_unless_allowed(unilm):
    incomplete = {name: array for name, array in unilm.items() if name != "blocks.1.norm2.bias"}
    refused(tiny_beit(), publishers.unilm_file(incomplete), r"not in the file: blocks\.1\.norm2\.bias")
    refused(
        tiny_beit(),
        publishers.unilm_file({**unilm, "blocks.0.attn.extra": np.ones(2)}),
        r"not in the model: blocks\.0",
    )
    model = tiny_beit()
    report = load_pretrained(model, publishers.unilm_file(incomplete), allow_missing=["blocks.*.norm2.bias"])
    assert report.new == {"blocks.1.norm2.bias": "not in the file, allowed"}


def test_tables_missing_from_the_file_are_refused():
    """With tables at their initial values a model would lose all position information."""
    mim = publishers.unilm_mim(np.random.default_rng(3), positions=True)
    refused(tiny_beit(), publishers.unilm_file(mim), "set MODEL.USE_ABS_POS_EMB True")


UNSUPPORTED = {
    "a plain vision transformer": {"blocks.0.attn.qkv.bias": np.ones(3), "cls_token": np.ones((1, 1, 1))},
    "BEiT-3": {"beit3.encoder.layers.0.x": np.ones(3)},
    "Data2VecVision": {"data2vec_vision.embeddings.cls_token": np.ones(3)},
    "EVA": {"blocks.0.attn.q_proj.weight": np.ones(3)},
    "a ResNet": {"layer1.0.conv1.weight": np.ones(3)},
    "no known format of BEiT.*its first tensors: a, b": {"a": np.ones(3), "b": np.ones(3)},
}


@pytest.mark.parametrize("words", UNSUPPORTED)
def test_other_networks_are_named(words):
    with pytest.raises(CheckpointError, match=words):
        load_pretrained(tiny_beit(), UNSUPPORTED[words])


def test_files_without_weights_are_refused():
    with pytest.raises(CheckpointError, match="no model weights.*top-level keys are: epoch"):
        load_pretrained(tiny_beit(), {"epoch": 3})
    with pytest.raises(ValueError, match="the file holds a DALL-E encoder, the model is a BEiT classifier"):
        load_pretrained(tiny_beit(), publishers.dalle(np.random.default_rng(4)))


def test_untrained_codebook_is_refused():
    vqkd = publishers.unilm_vqkd(np.random.default_rng(5))
    vqkd["quantize.embedding.initted"][:] = 0
    with pytest.raises(CheckpointError, match="codebook of this tokenizer was never initialized"):
        load_pretrained(tiny_beit(), {"model": vqkd})


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_data_types_are_cast_and_reported(unilm, dtype):
    model = tiny_beit()
    report = load_pretrained(model, {"model": {name: array.astype(dtype) for name, array in unilm.items()}})
    assert report.info.dtype_casts == {np.dtype(dtype).name: len(unilm)}
    assert f"{len(unilm)} tensors cast from {np.dtype(dtype).name} to float32" in str(report)
    np.testing.assert_array_equal(
        model.cls_token.numpy(), unilm["cls_token"].astype(dtype).astype(np.float32)
    )


def test_bfloat16_in_uint16_arrays_is_cast(unilm):
    bits = {name: (array.view(np.uint32) >> 16).astype(np.uint16) for name, array in unilm.items()}
    model = tiny_beit()
    report = load_pretrained(model, {"model": bits})
    assert report.info.dtype_casts == {"bfloat16": len(unilm)}
    np.testing.assert_allclose(model.cls_token.numpy(), unilm["cls_token"], rtol=2**-7)


def test_nan_is_warned_about_or_refused(unilm):
    unilm["blocks.1.gamma_1"][3] = np.nan
    with pytest.warns(UserWarning, match=r"NaN or Inf in 1 tensors, e.g. blocks\.1\.gamma_1"):
        report = load_pretrained(tiny_beit(), publishers.unilm_file(unilm), require_finite=False)
    assert report.non_finite == ("blocks.1.gamma_1",)
    assert "warning: NaN or Inf in blocks.1.gamma_1" in str(report)
    refused(
        tiny_beit(),
        publishers.unilm_file(unilm),
        "NaN or infinity in 1 tensors, first blocks.1.gamma_1",
    )


def test_files_and_folders(tmp_path, unilm):
    write(tmp_path / "beit_base.pdparams", publishers.paddlevit(unilm))
    assert load_pretrained(tiny_beit(), tmp_path / "beit_base.pdparams").info.container == "pickle"

    folder = tmp_path / "beitv2_base_patch16_224.in1k"
    folder.mkdir()
    save_file(
        {name: np.ascontiguousarray(array) for name, array in unilm.items()}, folder / "model.safetensors"
    )
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": 0.95, "interpolation": "bilinear"}
    (folder / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    report = load_pretrained(tiny_beit(), str(folder))
    found = report.info.preprocessing
    assert (found.mean, found.std, found.crop_pct) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.95)
    assert (report.info.container, found.interpolation) == ("safetensors", "bilinear")
    assert report.info.name == "beitv2_base_patch16_224.in1k/model.safetensors"

    empty = tmp_path / "empty"
    empty.mkdir()
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="config.json is not valid JSON"):
        load_pretrained(tiny_beit(), folder)
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors, pytorch_model.bin"):
        load_pretrained(tiny_beit(), empty)
    with pytest.raises(FileNotFoundError, match="nowhere.pdparams does not exist"):
        load_pretrained(tiny_beit(), tmp_path / "nowhere.pdparams")
    write(tmp_path / "list.pdparams", [1, 2])
    with pytest.raises(CheckpointError, match="list, not of named weights"):
        load_pretrained(tiny_beit(), tmp_path / "list.pdparams")


def test_loading_a_sound_file_warns_about_nothing(unilm):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_pretrained(tiny_beit(classes=3), publishers.huggingface(unilm))
    assert caught == []
