"""`from_pretrained` of every form, `save_pretrained`, and training in between."""

from __future__ import annotations

import errno
import importlib
import json
import logging
import os

import numpy as np
import paddle
import pytest

from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.models.load import load_pretrained
from beit.predict.resolve import load_model
from beit.transformers import (
    BeitBackbone,
    BeitConfig,
    BeitForImageClassification,
    BeitForMaskedImageModeling,
    BeitForSemanticSegmentation,
    BeitModel,
)
from tests.checkpoint import publishers
from tests.transformers.cases import CASES, TINY, write_folder

RNG = np.random.default_rng(3)
SIZES = {"side": 2, "patch": 4}  # images of 8 pixels
IMAGES = paddle.to_tensor(CASES["classes"].pixels)


def logits_of(model, images=IMAGES):
    with paddle.no_grad():
        return model(images).logits.numpy()


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "folder", CASES["classes"])
    return tmp_path / "folder"


@pytest.fixture
def unilm(tmp_path):
    """A classifier of unilm, as a file."""
    write(tmp_path / "unilm.pth", publishers.unilm_file(publishers.unilm_classifier(RNG, **SIZES)))
    return tmp_path / "unilm.pth"


def test_a_fine_tuned_model_is_saved_and_read_again(folder, tmp_path):
    """Fine-tune, save, read; `test_transformers_reads_a_fine_tuned_model` compares with transformers."""
    model = fine_tuned(folder)
    model.save_pretrained(tmp_path / "tuned")
    again = BeitForImageClassification.from_pretrained(tmp_path / "tuned")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    assert again.config.id2label == {0: "cat", 1: "dog", 2: "fox"}
    content = json.loads((tmp_path / "tuned" / "config.json").read_text())
    assert content["architectures"] == ["BeitForImageClassification"]
    native = load_model(tmp_path / "tuned")
    assert native.class_names == ("cat", "dog", "fox")
    np.testing.assert_allclose(native(IMAGES).numpy(), logits_of(again), atol=1e-6)


@pytest.mark.peers
def test_transformers_reads_a_fine_tuned_model(folder, tmp_path):
    """Train here, save, the same logits in transformers; save there, the same logits here."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    model = fine_tuned(folder)
    model.save_pretrained(tmp_path / "ours")
    theirs, loading = transformers.BeitForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loading.values())
    with torch.no_grad():
        expected = theirs(torch.from_numpy(IMAGES.numpy())).logits.numpy()
    np.testing.assert_allclose(logits_of(model), expected, atol=1e-5)
    assert theirs.config.id2label == model.config.id2label

    with torch.no_grad():
        theirs.classifier.weight.mul_(2)
        expected = theirs(torch.from_numpy(IMAGES.numpy())).logits.numpy()
    theirs.save_pretrained(tmp_path / "theirs")
    back = BeitForImageClassification.from_pretrained(tmp_path / "theirs")
    np.testing.assert_allclose(logits_of(back), expected, atol=1e-5)


def fine_tuned(folder):
    """Three steps on a new head of three classes."""
    paddle.seed(0)
    model = BeitForImageClassification.from_pretrained(
        folder, id2label={0: "cat", 1: "dog", 2: "fox"}, ignore_mismatched_sizes=True, drop_path_rate=0.0
    )
    model.train()
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    before = model.beit.encoder.cls_token.numpy()
    losses = []
    for _ in range(3):
        loss = model(pixel_values=IMAGES, labels=paddle.to_tensor([2, 0])).loss
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert np.abs(model.beit.encoder.cls_token.numpy() - before).max() > 0
    model.eval()
    return model


def test_another_number_of_classes_needs_consent(folder, caplog):
    with pytest.raises(
        ValueError, match="5 classes in the file, 3 in the model; with ignore_mismatched_sizes=True"
    ):
        BeitForImageClassification.from_pretrained(folder, num_labels=3)
    with caplog.at_level(logging.WARNING):
        model = BeitForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert model.num_labels == 3 and logits_of(model).shape == (2, 3)
    assert "has no weights for head.bias, head.weight: train the model" in caplog.text
    kept = BeitForImageClassification.from_pretrained(folder)
    for name, tensor in kept.state_dict().items():
        if not name.startswith("classifier"):
            np.testing.assert_array_equal(model.state_dict()[name].numpy(), tensor.numpy())
    assert not model.training
    wide = BeitForImageClassification.from_pretrained(
        folder, num_labels=300, ignore_mismatched_sizes=True, initializer_range=0.5, use_mask_token=True
    )
    assert abs(wide.classifier.weight.numpy().std() - 0.5) < 0.03
    assert not wide.classifier.bias.numpy().any() and not wide.beit.mask_token.numpy().any()


@pytest.mark.parametrize("form", ["canonical", "timm", "huggingface", "paddlevit", "openmmlab"])
def test_weights_of_other_publishers(form, unilm, tmp_path):
    """Without transformers' config.json the tensors tell the architecture; epsilon is that of the training, 1e-6."""
    suffix = {"timm": "", "huggingface": "", "openmmlab": ".pth"}.get(form, ".pdparams")
    target = tmp_path / f"converted{suffix}"
    convert(unilm, target, publisher=form)
    model = BeitForImageClassification.from_pretrained(target)
    assert model.config.layer_norm_eps == 1e-6 and model.config.num_labels == 5
    assert BeitConfig.from_pretrained(target) == model.config
    native = load_model(unilm)
    np.testing.assert_allclose(logits_of(model), native(IMAGES).numpy(), atol=1e-5)


def test_a_file_of_transformers_alone_has_its_epsilon(folder, tmp_path):
    state = read(folder / "model.safetensors").tree
    write(tmp_path / "alone.pdparams", state)
    model = BeitForImageClassification.from_pretrained(tmp_path / "alone.pdparams", num_labels=5)
    assert model.config.layer_norm_eps == 1e-12
    assert model.config.use_relative_position_bias
    config = BeitConfig.from_pretrained(tmp_path / "alone.pdparams", num_labels=5)
    assert config == model.config
    assert BeitConfig.from_pretrained(folder, num_labels=3).num_labels == 3


def test_weights_of_pretraining_start_a_classifier(tmp_path, caplog):
    write_folder(tmp_path, CASES["masked"])
    with caplog.at_level(logging.WARNING):
        model = BeitForImageClassification.from_pretrained(tmp_path, num_labels=3)
    assert logits_of(model).shape == (2, 3)
    assert "fc_norm.weight" in caplog.text and "head.weight" in caplog.text
    masked = BeitForMaskedImageModeling.from_pretrained(tmp_path)
    for name, tensor in masked.beit.state_dict().items():
        np.testing.assert_array_equal(model.beit.state_dict()[name].numpy(), tensor.numpy())
    assert "mask_token" in masked.beit.state_dict()


@pytest.mark.parametrize("version", [1, 2])
def test_pretraining_files_of_unilm(version, tmp_path):
    mim = publishers.unilm_mim(RNG, version=version, **SIZES)
    write(tmp_path / "mim.pth", publishers.unilm_file(mim))
    model = BeitModel.from_pretrained(tmp_path / "mim.pth", add_pooling_layer=False)
    assert model.config.use_mean_pooling and model(IMAGES).pooler_output is None
    np.testing.assert_array_equal(model.encoder.cls_token.numpy(), mim["cls_token"])


def test_encoders_of_every_class_take_each_others_weights(tmp_path):
    write_folder(tmp_path / "segmentation", CASES["segmentation"])
    write_folder(tmp_path / "classes", CASES["classes"])
    for source in ("segmentation", "classes"):
        backbone = BeitBackbone.from_pretrained(tmp_path / source, out_indices=[1, 2, 3, 4], add_fpn=True)
        model = BeitModel.from_pretrained(tmp_path / source, add_pooling_layer=False)
        for name, tensor in model.encoder.state_dict().items():
            np.testing.assert_array_equal(backbone.beit.encoder.state_dict()[name].numpy(), tensor.numpy())
        assert len(backbone(IMAGES).feature_maps) == 4
    backbone.save_pretrained(tmp_path / "backbone")
    again = BeitBackbone.from_pretrained(tmp_path / "backbone")
    for mine, stored in zip(backbone(IMAGES).feature_maps, again(IMAGES).feature_maps, strict=True):
        np.testing.assert_array_equal(mine.numpy(), stored.numpy())
    BeitForSemanticSegmentation.from_pretrained(tmp_path / "backbone", num_labels=3)
    BeitForImageClassification.from_pretrained(tmp_path / "backbone", num_labels=3)


def test_another_image_size_resizes_the_positions(folder):
    large = BeitForImageClassification.from_pretrained(folder, image_size=16)
    table = large.beit.encoder.blocks[0].attn.relative_position_bias_table
    assert table.shape == [7 * 7 + 3, 3] and large.config.image_size == 16
    assert logits_of(large, paddle.zeros([1, 3, 16, 16])).shape == (1, 5)


def test_the_state_of_a_model_loads_in_the_package(folder, tmp_path):
    BeitForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "out")
    native = load_model(tmp_path / "out")
    report = load_pretrained(native, tmp_path / "out")
    assert not report.new and not report.info.unknown


def test_wrong_sources_and_arguments_are_refused(folder, tmp_path):
    load = BeitForImageClassification.from_pretrained
    with pytest.raises(FileNotFoundError, match="missing.pth does not exist"):
        load("missing.pth")
    with pytest.raises(FileNotFoundError, match="similar: microsoft/beit-base-patch16"):
        load("microsoft/beit-bas")
    with pytest.raises(ValueError, match="attn_implementation = 'flash_attention_2'; known"):
        load(folder, attn_implementation="flash_attention_2")
    with pytest.raises(ValueError, match="num_labels: set them in the config"):
        load(folder, config=BeitConfig(**TINY), num_labels=3)
    with pytest.raises(ValueError, match="does not fit the model"):
        load(folder, config=BeitConfig(**TINY | {"num_hidden_layers": 3}))
    (folder / "config.json").write_text('{"model_type": "data2vec-vision"}')
    with pytest.raises(ValueError, match="of the type 'data2vec-vision'"):
        load(folder)
    write(tmp_path / "vqkd.pdparams", publishers.unilm_vqkd(RNG))
    with pytest.raises(ValueError, match="holds a vqkd model, which is no BEiT encoder"):
        load(tmp_path / "vqkd.pdparams")


def test_a_published_name_is_fetched(folder, monkeypatch):
    fetched = []
    module = importlib.import_module("beit.zoo")
    monkeypatch.setattr(
        module, "fetch_published", lambda entry: fetched.append(entry.name) or folder / "model.safetensors"
    )
    model = BeitForImageClassification.from_pretrained("microsoft/beit-base-patch16-224")
    assert set(fetched) == {"microsoft/beit-base-patch16-224"} and model.num_labels == 5


def test_arguments_for_devices_and_types(folder):
    load = BeitForImageClassification.from_pretrained
    model = load(folder, device_map="auto", torch_dtype="auto", attn_implementation="sdpa")
    assert IMAGES.to(model.device).shape == IMAGES.shape
    with pytest.raises(ValueError, match="choose the device with paddle.set_device"):
        load(folder, device_map="balanced")
    for argument in ("dtype", "torch_dtype"):
        with pytest.raises(ValueError, match=r"dtype = .*paddle.amp.auto_cast\(dtype='float16'\)"):
            load(folder, **{argument: paddle.float16})


def test_a_full_disk_keeps_the_config_of_the_weights_that_stay(folder, monkeypatch):
    model = BeitForImageClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    before = {path: path.read_bytes() for path in folder.iterdir()}

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("beit.checkpoint.files.write_safetensors", full)
    with pytest.raises(OSError, match=r"cannot write \S+model\.safetensors: No space left"):
        model.save_pretrained(folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
