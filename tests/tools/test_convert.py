"""`python -m beit convert`: every format in every container, round trips, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.checkpoint.load import load_pretrained
from beit.checkpoint.translate import to_canonical
from beit.tools.convert import main
from tests.checkpoint import publishers
from tests.tiny import largest_difference, tiny_beit

FORMS = ("canonical", "paddlevit", "passl", "unilm", "timm", "huggingface", "openmmlab")
UNILM = publishers.unilm_classifier(np.random.default_rng(0))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "beit_base_source.pdparams"
    write(path, publishers.paddlevit(UNILM))
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_a_round_trip_changes_nothing(source, tmp_path, form, suffix):
    there, back = tmp_path / f"there{suffix}", tmp_path / "back.pdparams"
    convert(source, there, publisher=form)
    report = convert(there, back, publisher="paddlevit")
    assert report.info.publisher == form
    first, second = read(source).tree, read(back).tree
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
        assert second[name].dtype == array.dtype


@pytest.mark.parametrize("form", FORMS)
def test_converted_files_give_the_same_logits(source, tmp_path, form):
    path = tmp_path / "converted.safetensors"
    convert(source, path, publisher=form)
    model = tiny_beit()
    load_pretrained(model, path)
    assert largest_difference(model, UNILM, 3, np.random.default_rng(1), 12) < 1e-5


def test_safetensors_files_keep_the_preprocessing(source, tmp_path):
    path = tmp_path / "renamed.safetensors"
    convert(source, path)
    found = load_pretrained(tiny_beit(), path).info.preprocessing
    assert (found.mean, found.crop_pct, found.image_size) == ((0.5, 0.5, 0.5), 0.9, 12)


def test_paddlevit_form_has_index_buffers(source, tmp_path):
    convert(source, tmp_path / "plain.pdparams")
    plain = read(tmp_path / "plain.pdparams").tree
    assert not [name for name in plain if name.endswith("index")]
    convert(tmp_path / "plain.pdparams", tmp_path / "vit.pdparams", publisher="paddlevit")
    index = read(tmp_path / "vit.pdparams").tree["blocks.1.attn.relative_position_index"]
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, publishers.index_buffer(3))


def test_huggingface_folder(source, tmp_path):
    convert(source, tmp_path / "hub", publisher="huggingface")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    expected = {
        "architectures": ["BeitForImageClassification"],
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "image_size": 12,
        "patch_size": 4,
        "layer_norm_eps": 1e-6,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": True,
    }
    assert {key: config[key] for key in expected} == expected
    assert len(config["id2label"]) == 5
    processor = json.loads((tmp_path / "hub/preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5, 0.5, 0.5]
    written = load_file(tmp_path / "hub/model.safetensors")
    assert written.keys() == publishers.huggingface(UNILM).keys()
    assert load_pretrained(tiny_beit(), tmp_path / "hub").info.preprocessing.mean == (0.5, 0.5, 0.5)


def test_huggingface_folders_of_other_kinds(tmp_path):
    rng = np.random.default_rng(2)
    write(tmp_path / "mim.pdparams", publishers.unilm_file(publishers.unilm_mim(rng)))
    convert(tmp_path / "mim.pdparams", tmp_path / "mim", publisher="huggingface")
    config = json.loads((tmp_path / "mim/config.json").read_text())
    assert (config["architectures"], config["vocab_size"]) == (["BeitForMaskedImageModeling"], 11)
    assert (config["use_mask_token"], config["use_shared_relative_position_bias"]) == (True, True)
    assert config["use_mean_pooling"]  # False would ask for a second final norm
    segmentation = publishers.unilm_segmentation(rng, depth=12)
    write(tmp_path / "seg.pdparams", {"state_dict": segmentation})
    convert(tmp_path / "seg.pdparams", tmp_path / "seg", publisher="huggingface")
    config = json.loads((tmp_path / "seg/config.json").read_text())
    assert (config["out_indices"], config["auxiliary_channels"]) == ([3, 5, 7, 11], 6)
    counters = [
        v for k, v in load_file(tmp_path / "seg/model.safetensors").items() if k.endswith("batches_tracked")
    ]
    assert {counter.shape for counter in counters} == {()}  # torch refuses [1]


def test_timm_folder(source, tmp_path):
    convert(source, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert (config["global_pool"], config["num_classes"]) == ("avg", 5)
    assert config["pretrained_cfg"]["input_size"] == [3, 12, 12]
    assert config["model_args"]["embed_dim"] == 24
    assert "global_pool" not in config["model_args"]
    written = load_file(tmp_path / "timm/model.safetensors")
    assert written.keys() == UNILM.keys()
    token = publishers.unilm_classifier(
        np.random.default_rng(1), pooling="token", tables=False, positions=True, scale=False
    )
    write(tmp_path / "token.pdparams", publishers.unilm_file(token))
    convert(tmp_path / "token.pdparams", tmp_path / "token", publisher="timm")
    arguments = json.loads((tmp_path / "token/config.json").read_text())["model_args"]
    expected = {
        "global_pool": "token",
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "init_values": None,
    }
    assert {key: arguments[key] for key in expected} == expected


def test_averaged_weights_are_optional(tmp_path):
    averaged = {name: array + 1 for name, array in UNILM.items()}
    write(
        tmp_path / "training.pdparams",
        {"model": publishers.paddlevit(UNILM), "model_ema": publishers.paddlevit(averaged)},
    )
    for flags, expected in (([], averaged), (["--ema"], averaged), (["--no-ema"], UNILM)):
        main([str(tmp_path / "training.pdparams"), str(tmp_path / "out.safetensors"), *flags])
        state, _ = to_canonical(read(tmp_path / "out.safetensors").tree)
        np.testing.assert_array_equal(state["cls_token"], expected["cls_token"])


def test_command_line_prints_the_report(source, tmp_path, capsys):
    main([str(source), str(tmp_path / "out.pdparams"), "--to", "unilm"])
    text = capsys.readouterr().out
    assert "beit_base_source.pdparams: paddlevit classifier (pickle)" in text
    assert "written as unilm" in text
    assert list(read(tmp_path / "out.pdparams").tree) == ["model"]
    with pytest.raises(SystemExit):
        main([str(source), "out.pdparams", "--to", "keras"])
    assert "invalid choice: 'keras'" in capsys.readouterr().err


def test_errors(source, tmp_path):
    with pytest.raises(ValueError, match="name a .pdparams or .safetensors file"):
        convert(source, tmp_path / "folder")
    incomplete = {
        name: array for name, array in publishers.paddlevit(UNILM).items() if name != "blocks.1.norm2.bias"
    }
    write(tmp_path / "incomplete.pdparams", incomplete)
    with pytest.raises(
        ValueError, match=r"incomplete.pdparams \(paddlevit classifier\) lacks blocks\.1\.norm2\.bias"
    ):
        convert(tmp_path / "incomplete.pdparams", tmp_path / "out.pdparams")
    write(tmp_path / "odd.pdparams", {**publishers.paddlevit(UNILM), "blocks.0.odd": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=r"holds unknown tensors: blocks\.0\.odd"):
        convert(tmp_path / "odd.pdparams", tmp_path / "out.pdparams")
    write(
        tmp_path / "mim.pdparams",
        publishers.unilm_file(publishers.unilm_mim(np.random.default_rng(3), version=2)),
    )
    with pytest.raises(
        ValueError,
        match="timm has no format for mim_v2 checkpoints; publishers that do: canonical, openmmlab",
    ):
        convert(tmp_path / "mim.pdparams", tmp_path / "out.pdparams", publisher="timm")
    assert not (tmp_path / "out.pdparams").exists()
