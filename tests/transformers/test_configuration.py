"""`BeitConfig`: fields, classes, stages, and the file."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from beit.transformers import BeitConfig, BeitModel


def test_defaults_are_those_of_a_base_model():
    config = BeitConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.image_size) == (768, 12, 224)
    assert config.layer_norm_eps == 1e-12 and config.drop_path_rate == 0.1
    assert (config.num_labels, config.id2label) == (2, {0: "LABEL_0", 1: "LABEL_1"})
    assert (config.out_indices, config.out_features) == ([12], ["stage12"])
    assert config.model_type == "beit"


@pytest.mark.peers
def test_fields_and_defaults_equal_those_of_the_installed_transformers():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BeitConfig()
    for field in filter(lambda field: field.init, fields(BeitConfig)):
        default = getattr(theirs, field.name)
        assert field.default == (tuple(default) if isinstance(default, list) else default), field.name
    own = {field.name for field in fields(transformers.BeitConfig)} - {
        field.name for field in fields(transformers.PreTrainedConfig)
    }
    assert {name for name in own if not name.startswith("_")} <= {field.name for field in fields(BeitConfig)}


def test_classes_are_named_by_number_or_by_name():
    assert BeitConfig(num_labels=3).label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}
    config = BeitConfig(id2label={"0": "cat", 1: "dog"})
    assert config.id2label == {0: "cat", 1: "dog"} and config.label2id == {"cat": 0, "dog": 1}
    assert config.num_labels == 2
    gaps = BeitConfig(id2label={"0": "a", "10": "c", "2": "b"}, label2id={"a": 0, "b": 2, "c": 10})
    assert gaps.id2label == {0: "a", 1: "b", 2: "c"} and gaps.label2id == {"a": 0, "b": 1, "c": 2}
    config.num_labels = 2
    assert config.id2label[1] == "dog"  # as many as before
    config.num_labels = 3
    assert config.id2label[1] == "LABEL_1"


def test_stages_follow_from_names_numbers_and_old_spellings():
    assert BeitConfig(out_features=["stem", "stage3"]).out_indices == [0, 3]
    assert BeitConfig(out_indices=(1, -1)).out_features == ["stage1", "stage12"]
    for old in ("segmentation_indices", "semantic_out_indices"):
        assert BeitConfig(**{old: [3, 5, 7, 11]}).out_indices == [3, 5, 7, 11]


def test_fields_that_are_set_later_are_saved_and_checked(tmp_path):
    config = BeitConfig()
    config.num_hidden_layers = 2
    config.save_pretrained(tmp_path)
    assert BeitConfig.from_pretrained(tmp_path).out_features == ["stage2"]
    config.out_features = ["stem", "stage1"]
    assert config.out_indices == [0, 1]
    config.out_indices = [1, 2]
    assert config.out_features == ["stage1", "stage2"]
    with pytest.raises(ValueError, match="known: stem, stage1, stage2"):
        config.out_features = ["stage3"]
    config.hidden_size = 770
    with pytest.raises(ValueError, match="hidden_size = 770 is not a multiple of num_attention_heads = 12"):
        BeitModel(config)


def test_a_config_is_read_as_it_was_written(tmp_path):
    config = BeitConfig(
        hidden_size=24, num_attention_heads=3, image_size=[32, 16], id2label={0: "cat", 1: "dog"},
        out_indices=[1, 2], pool_scales=(1, 2), problem_type="regression", transformers_version="4.57.6",
    )  # fmt: skip
    config.save_pretrained(tmp_path / "new")
    content = json.loads((tmp_path / "new" / "config.json").read_text())
    assert content["model_type"] == "beit" and content["id2label"] == {"0": "cat", "1": "dog"}
    for source in (tmp_path / "new", tmp_path / "new" / "config.json"):
        again = BeitConfig.from_pretrained(source)
        assert again.to_dict() == config.to_dict()
    assert again.transformers_version == "4.57.6" and again.image_size == (32, 16)

    changed = BeitConfig.from_pretrained(
        tmp_path / "new", num_labels=3, out_features=["stem"], hidden_size=48
    )
    assert (changed.num_labels, changed.out_indices, changed.hidden_size) == (3, [0], 48)
    assert changed.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": "768"}, "hidden_size = '768'; expected a whole number"),
        ({"hidden_size": True}, "expected a whole number"),
        ({"use_mask_token": 1}, "use_mask_token = 1; expected True or False"),
        ({"layer_norm_eps": "1e-6"}, "expected a number"),
        ({"hidden_act": 3}, "hidden_act = 3; expected text"),
        ({"image_size": [224]}, r"image_size = \[224\]; expected pixels, or \[height, width\]"),
        ({"image_size": 100}, "image_size = 100 is not a multiple of patch_size = 16"),
        ({"patch_size": 0}, "patch_size = 0; expected 1 or more"),
        ({"hidden_size": 770}, "is not a multiple of num_attention_heads = 12"),
        ({"problem_type": "ranking"}, "problem_type = 'ranking'; known: regression, "),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels = 3, but id2label has 1 names"),
        ({"id2label": ["a"]}, r"id2label = \['a'\]; expected \{number: name\}"),
        ({"out_features": ["stage13"]}, r"out_features = \['stage13'\]; known: stem, stage1"),
        ({"out_indices": [13]}, "expected numbers from 0 to 12"),
        ({"out_indices": [2, 1]}, "in increasing order, each once"),
        ({"out_indices": [1, 1]}, "in increasing order, each once"),
        ({"out_indices": [1], "out_features": ["stage2"]}, "are not the stages of"),
        ({"add_fpn": True}, "add_fpn = True needs four out_indices"),
        ({"out_indices": "3"}, "out_indices = '3'; expected a list of whole numbers"),
        ({"out_features": 3}, "out_features = 3; known: stem"),
        ({"pool_scales": 2}, "pool_scales = 2; expected a list of whole numbers"),
        ({"id2label": {0: "a"}, "label2id": ["a"]}, r"label2id = \['a'\]; expected \{name: number\}"),
        ({"problem_type": []}, r"problem_type = \[\]; known"),
    ],
)
def test_wrong_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BeitConfig(**values)


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        BeitConfig.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="other.json does not exist"):
        BeitConfig.from_pretrained(tmp_path / "other.json")
    for text, message in (
        ("{", "is not valid JSON"),
        ("[]", "holds a list, expected an object"),
        ('{"model_type": "vit"}', "of the type 'vit'; expected 'beit'"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            BeitConfig.from_pretrained(tmp_path)


def test_the_dict_of_a_config_makes_it_again():
    config = BeitConfig(num_hidden_layers=4, num_labels=3, out_indices=[1, 2], further="kept")
    again = BeitConfig(**config.to_dict())
    assert again == config and again.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "vit"}, "model_type = 'vit'; expected 'beit'"),
        ({"check": 1}, "check is the name of a method of BeitConfig, not of a field"),
    ],
)
def test_values_that_are_no_fields(values, message):
    with pytest.raises(ValueError, match=message):
        BeitConfig(**values)
