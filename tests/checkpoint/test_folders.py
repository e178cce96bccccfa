"""Folders of transformers and timm: the JSON that these libraries read, and what they have no place for."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.config import dump, get_config
from beit.models.load import load_pretrained
from tests.checkpoint import publishers
from tests.checkpoint.sources import NAMES, UNILM, described, write_source
from tests.tiny import tiny_beit


def test_huggingface_folder(tmp_path):
    source = write_source(tmp_path)
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


def test_timm_folder(tmp_path):
    source = write_source(tmp_path)
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
    (tmp_path / "token.pretrained_cfg.json").write_text('{"model_args": {"num_heads": 3}}')
    convert(tmp_path / "token.pdparams", tmp_path / "token", publisher="timm")
    arguments = json.loads((tmp_path / "token/config.json").read_text())["model_args"]
    expected = {
        "global_pool": "token",
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "init_values": None,
    }
    assert {key: arguments[key] for key in expected} == expected


def without_metadata(path):
    """A folder's weights without what this package notes inside, as its library writes them."""
    write(path / "model.safetensors", load_file(path / "model.safetensors"))


def test_timm_folders_state_names_and_statistics_where_timm_looks(tmp_path):
    source = described(tmp_path / "source.pdparams", exif_orientation=True)
    report = convert(source, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert config["label_names"] == list(NAMES)
    assert config["pretrained_cfg"] == {
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "input_size": [3, 12, 12],
        "crop_mode": "center",
        "num_classes": 5,
    }  # a key that timm does not have stops it
    assert "note: timm does not turn images by their EXIF orientation" in str(report)
    without_metadata(tmp_path / "timm")
    info = open_checkpoint(tmp_path / "timm").info
    assert (info.class_names, info.preprocessing.crop_pct) == (NAMES, 0.8)


def test_huggingface_folders_state_names_and_crop_where_transformers_looks(tmp_path):
    source = described(tmp_path / "source.pdparams")
    convert(source, tmp_path / "hub", publisher="huggingface")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    assert config["label2id"] == {name: i for i, name in enumerate(NAMES)}
    processor = json.loads((tmp_path / "hub/preprocessor_config.json").read_text())
    expected = {
        "image_processor_type": "CLIPImageProcessor",  # BeitImageProcessor of release 4 cannot keep the aspect ratio
        "size": {"shortest_edge": 15},
        "do_center_crop": True,
        "crop_size": {"height": 12, "width": 12},
        "resample": 2,
        "image_mean": [0.4] * 3,
    }
    assert {key: processor[key] for key in expected} == expected
    without_metadata(tmp_path / "hub")
    assert open_checkpoint(tmp_path / "hub").info.class_names == NAMES
    squashed = described(tmp_path / "squashed.pdparams", crop_mode="squash", crop_pct=1.0)
    convert(squashed, tmp_path / "squashed", publisher="huggingface")
    processor = json.loads((tmp_path / "squashed/preprocessor_config.json").read_text())
    assert (processor["size"], processor["do_center_crop"]) == ({"height": 12, "width": 12}, False)


def test_published_lists_of_names_are_written_out_for_transformers(tmp_path):
    state = publishers.unilm_classifier(np.random.default_rng(3), classes=1000)
    write(tmp_path / "beit_base.pth", {"model": state})
    convert(tmp_path / "beit_base.pth", tmp_path / "hub", publisher="huggingface")
    labels = json.loads((tmp_path / "hub/config.json").read_text())["id2label"]
    assert (len(labels), labels["0"]) == (1000, "tench, Tinca tinca")


def test_dalle_for_transformers_is_a_flava_codebook(tmp_path):
    write(tmp_path / "encoder.pth", publishers.dalle(np.random.default_rng(1)))
    convert(tmp_path / "encoder.pth", tmp_path / "flava", publisher="huggingface")
    config = json.loads((tmp_path / "flava/config.json").read_text())
    assert config == {
        "architectures": ["FlavaImageCodebook"],
        "model_type": "flava_image_codebook",
        "num_groups": 4,
        "num_blocks_per_group": 2,
        "input_channels": 3,
        "hidden_size": 8,
        "vocab_size": 16,
    }
    processor = json.loads((tmp_path / "flava/preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "FlavaImageProcessor"
    found = open_checkpoint(tmp_path / "flava").info
    assert (found.kind, found.preprocessing.image_size) == ("dalle_encoder", 112)
    assert found.preprocessing.mean == (-0.125,) * 3
    write(tmp_path / "decoder.pth", publishers.dalle(np.random.default_rng(1), decoder=True))
    with pytest.raises(ValueError, match="huggingface has no format for dalle_decoder checkpoints"):
        convert(tmp_path / "decoder.pth", tmp_path / "decoder", publisher="huggingface")
    assert not (tmp_path / "decoder").exists()


def segmentation(tmp_path, **options):
    state = publishers.unilm_segmentation(np.random.default_rng(2), **options)
    write(tmp_path / "seg.pth", {"state_dict": state})
    return tmp_path / "seg.pth"


def test_segmentation_for_transformers_names_the_blocks_it_takes(tmp_path):
    report = str(convert(segmentation(tmp_path, depth=12), tmp_path / "seg", publisher="huggingface"))
    assert "takes the outputs of blocks 1, 3, 5, 9 (from 0), the head was trained on 3, 5, 7, 11" in report
    assert "model.config._out_indices = [5, 7, 9, 13]" in report


def test_blocks_of_a_segmentation_head_are_stated_not_guessed(tmp_path):
    path = segmentation(tmp_path, depth=4)
    with pytest.raises(ValueError, match="which four blocks feed its segmentation head is not stated"):
        convert(path, tmp_path / "seg", publisher="huggingface")
    path.with_suffix(".pretrained_cfg.json").write_text('{"out_indices": [0, 1, 2, 3]}')
    convert(path, tmp_path / "seg", publisher="huggingface")
    assert json.loads((tmp_path / "seg/config.json").read_text())["out_indices"] == [0, 1, 2, 3]
    for target in ("again.safetensors", "again.pdparams"):
        convert(tmp_path / "seg", tmp_path / target)
        assert open_checkpoint(tmp_path / target).info.feature_layers == {"trained": (0, 1, 2, 3)}


def test_models_without_biases_of_query_and_value(tmp_path):
    bare = {name: array for name, array in UNILM.items() if not name.endswith(("q_bias", "v_bias"))}
    path = described(tmp_path / "source.pdparams", bare)
    convert(path, tmp_path / "timm", publisher="timm")
    assert json.loads((tmp_path / "timm/config.json").read_text())["model_args"]["qkv_bias"] is False
    report = convert(path, tmp_path / "hub", publisher="huggingface")
    assert "transformers always has biases of query and value: zeros are written" in str(report)
    written = load_file(tmp_path / "hub/model.safetensors")
    assert written.keys() == publishers.huggingface(UNILM).keys()
    assert not written["beit.encoder.layer.0.attention.attention.query.bias"].any()


def test_heads_of_another_size_have_no_form_elsewhere(tmp_path):
    state = dict(UNILM)
    for name, array in UNILM.items():
        if name.endswith(("qkv.weight", "q_bias", "v_bias")):
            state[name] = np.concatenate([array, array])
        elif name.endswith("attn.proj.weight"):
            state[name] = np.concatenate([array, array], axis=1)
    for form in ("timm", "huggingface"):
        with pytest.raises(ValueError, match="its heads have 16 channels"):
            convert(described(tmp_path / "source.pdparams", state), tmp_path / form, publisher=form)
        assert not (tmp_path / form).exists()


def test_the_folder_of_a_run_is_a_source(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        dump(get_config(None, ["DATA.IMAGE_SIZE", 12, "MODEL.PATCH_SIZE", 4, "DATA.CROP_PCT", 0.7]))
    )
    (run / "class_names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="holds none of model.pdparams, best.pdparams"):
        convert(run, tmp_path / "hub", publisher="huggingface")
    write(run / "best.pdparams", dict(open_checkpoint(described(tmp_path / "source.pdparams")).state))
    convert(run, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert (config["label_names"], config["pretrained_cfg"]["crop_pct"]) == (list(NAMES), 0.7)


def test_a_full_disk_leaves_the_earlier_files_and_no_mixture(tmp_path, monkeypatch):
    """The JSON files replace those of the earlier weights only once the new weights are written."""
    earlier = described(tmp_path / "earlier.pdparams")
    other = described(tmp_path / "other.pdparams", crop_pct=0.5)
    target, file = tmp_path / "hub", tmp_path / "file.pdparams"
    convert(earlier, target, publisher="huggingface")
    convert(earlier, file)
    before = {path: path.read_bytes() for path in (*target.iterdir(), *tmp_path.glob("file*"))}
    assert len(before) == 5

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("beit.checkpoint.files.write_safetensors", full)
    monkeypatch.setattr("beit.checkpoint.files.write_pickle", full)
    for place, publisher in ((target, "huggingface"), (file, "canonical")):
        with pytest.raises(
            OSError, match=r"^\[Errno 28\] cannot write \S+ No space left on device; the prev"
        ):
            convert(other, place, publisher=publisher)
    assert {path: path.read_bytes() for path in (*target.iterdir(), *tmp_path.glob("file*"))} == before
