"""Files beside the weights that contradict each other."""

from __future__ import annotations

import json
import shutil

import pytest

import beit
from beit.checkpoint.convert import convert
from beit.checkpoint.open import open_checkpoint
from beit.config import dump
from beit.containers.errors import CheckpointError
from beit.metadata.files import run_metadata
from beit.train.resume import write
from tests.tiny import tiny_config

KEYS = {
    "DATA__CROP_PCT": 0.8,
    "DATA__IMAGENET_MEAN": [0.1, 0.2, 0.3],
    "MODEL__LAYER_NORM_EPS": 1e-5,
}


@pytest.fixture
def folder(tmp_path):
    """A run folder: `model.pdparams`, `config.yaml`, `class_names.txt`."""
    config = tiny_config(**KEYS)
    state = {name: value.numpy() for name, value in beit.build_beit(config).state_dict().items()}
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder / "model.pdparams", state, metadata=run_metadata(dump(config), "abc"))
    (folder / "config.yaml").write_text(dump(config))
    (folder / "class_names.txt").write_text("a\nb\nc\n")
    return folder


def state_in_json(folder, name="model", **content):
    file = folder / f"{name}.pretrained_cfg.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, r"mean: \(0.5, 0.5, 0.5\) and \(0.1, 0.2, 0.3\)"),
        ({"pretrained_cfg": {"crop_pct": 1.0}}, "crop_pct: 1.0 and 0.8"),
        ({"pretrained_cfg": {"resize": 20}}, "crop_pct: None and 0.8"),
        ({"pretrained_cfg": {"interpolation": "nearest"}}, "interpolation: nearest and bicubic"),
        ({"pretrained_cfg": {"input_size": [3, 32, 32]}}, "image_size: 32 and 16"),
        ({"model_args": {"layer_norm_eps": 1e-6}}, "layer_norm_eps: 1e-06 and 1e-05"),
        ({"model_args": {"num_heads": 2}}, "num_attention_heads: 2 and 3"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_json_and_config_of_a_run_that_differ_are_refused(folder, content, what):
    file = state_in_json(folder, **content)
    with pytest.raises(
        CheckpointError, match=f"model.pretrained_cfg.json and config.yaml beside it .* of {what}"
    ):
        open_checkpoint(folder)
    file.unlink()
    assert open_checkpoint(folder).info.preprocessing.crop_pct == 0.8


def test_json_and_class_names_of_a_run_that_differ_are_refused(folder):
    state_in_json(folder, class_names=["a", "x", "c"])
    message = r"class_names.txt beside it state different values of the class names: 'x' \(class 1\) and 'b'"
    with pytest.raises(CheckpointError, match=message):
        beit.load_predictor(folder)


def test_json_that_agrees_with_the_config_of_a_run_changes_nothing(folder):
    expected = open_checkpoint(folder).info
    convert(folder, folder / "other.pdparams")
    (folder / "other.pretrained_cfg.json").rename(folder / "model.pretrained_cfg.json")
    found = open_checkpoint(folder).info
    assert (found.preprocessing, found.class_names, found.notes) == (
        expected.preprocessing, expected.class_names, expected.notes
    )  # fmt: skip
    state_in_json(folder, pretrained_cfg={"crop_pct": 0.8})  # without the mean, which the config states
    assert open_checkpoint(folder).info.preprocessing == expected.preprocessing


def test_json_beside_weights_without_config_replaces_what_it_states(folder, tmp_path):
    """The config inside of the weights states the rest."""
    shutil.copy(folder / "model.pdparams", tmp_path / "mine.pdparams")
    state_in_json(tmp_path, "mine", pretrained_cfg={"crop_pct": 1.0})
    info = open_checkpoint(tmp_path / "mine.pdparams").info
    assert (info.preprocessing.crop_pct, info.preprocessing.mean) == (1.0, (0.1, 0.2, 0.3))
    assert info.notes == (
        "crop_pct: 1.0 in mine.pretrained_cfg.json, 0.8 in the config inside of the weights: mine.pretrained_cfg.json is used",
    )


def test_two_json_files_of_a_model_folder_that_differ_are_refused(folder, tmp_path):
    convert(folder, tmp_path / "timm", publisher="timm")
    state_in_json(tmp_path / "timm", pretrained_cfg={"crop_pct": 0.5})
    with pytest.raises(
        CheckpointError, match="config.json beside it state different values of crop_pct: 0.5 and 0.8"
    ):
        open_checkpoint(tmp_path / "timm")


def test_a_key_that_is_not_read_is_named(folder, tmp_path):
    shutil.copy(folder / "model.pdparams", tmp_path / "mine.pdparams")
    state_in_json(tmp_path, "mine", crop_pct=1.0)
    assert open_checkpoint(tmp_path / "mine.pdparams").info.notes == (
        "mine.pretrained_cfg.json states crop_pct, which is not read",
    )
