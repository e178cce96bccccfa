"""What config.json of transformers and timm states is used, compared with the tensors, or named; nothing is guessed."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.models.load import load_pretrained
from beit.predict.inference import load_predictor
from tests.checkpoint import publishers
from tests.metadata.processor_cases import MODEL, write_folder
from tests.tiny import tiny_beit, tiny_config

HEADS = {"tables": False, "positions": True}  # no tensor tells the number of heads


def hub(tmp_path, processor="size, all", *, sizes=None, **config):
    """A transformers folder; a value None leaves out the key of config.json."""
    folder = write_folder(tmp_path / "hub", processor)
    if sizes:
        state = publishers.huggingface(publishers.unilm_classifier(np.random.default_rng(3), **sizes))
        arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
        save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"use_absolute_position_embeddings": True, "use_relative_position_bias": False} | config
    content = {key: value for key, value in (MODEL | config).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def test_rates_epsilon_and_layer_scale_are_those_of_the_file(tmp_path):
    rates = {"drop_path_rate": 0.3, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.1}
    folder = hub(tmp_path, layer_norm_eps=1e-3, layer_scale_init_value=1e-5, **rates)
    model = load_predictor(folder).model
    assert {layer._epsilon for layer in (model.fc_norm, model.blocks[0].norm1, model.blocks[1].norm2)} == {
        1e-3
    }
    assert model.blocks[-1].drop_path.rate == 0.3
    assert (model.blocks[0].attn.proj_drop.p, model.blocks[0].attn.attn_drop.p) == (0.2, 0.1)
    convert(folder, tmp_path / "own.pdparams")
    convert(tmp_path / "own.pdparams", tmp_path / "again", publisher="huggingface")
    written = json.loads((tmp_path / "again/config.json").read_text())
    stated = rates | {"layer_norm_eps": 1e-3, "layer_scale_init_value": 1e-5, "num_attention_heads": 3}
    assert {key: written[key] for key in stated} == stated
    report = convert(folder, tmp_path / "timm", publisher="timm")
    arguments = json.loads((tmp_path / "timm/config.json").read_text())["model_args"]
    assert (arguments["drop_path_rate"], arguments["proj_drop_rate"], arguments["attn_drop_rate"]) == (
        0.3,
        0.2,
        0.1,
    )
    assert "timm has no place for layer_norm_eps 0.001: it takes 1e-06" in str(report)


@pytest.mark.parametrize("heads", [2, 4])
def test_heads_that_no_tensor_tells_are_those_of_the_file(tmp_path, heads):
    folder = hub(tmp_path, sizes=HEADS, num_attention_heads=heads)
    assert load_predictor(folder).model.blocks[0].attn.num_heads == heads
    for form, publisher in (("own.pdparams", "canonical"), ("timm", "timm"), ("again", "huggingface")):
        convert(folder, tmp_path / form, publisher=publisher)
        if publisher != "canonical":
            file = tmp_path / form / "model.safetensors"
            save_file(load_file(file), file)
        assert load_predictor(tmp_path / form).model.blocks[0].attn.num_heads == heads


def test_heads_that_nothing_tells_are_an_error_that_names_the_key(tmp_path):
    folder = hub(tmp_path, sizes=HEADS, num_attention_heads=None)
    for form in ("timm", "huggingface"):
        with pytest.raises(ValueError, match="num_attention_heads"):
            convert(folder, tmp_path / form, publisher=form)
    with pytest.raises(ValueError, match=r"num_attention_heads.*MODEL\.NUM_HEADS"):
        load_predictor(folder)
    convert(folder, tmp_path / "own.pdparams")  # has all that the folder has
    (tmp_path / "own.pretrained_cfg.json").write_text('{"model_args": {"num_heads": 2}}')
    assert open_checkpoint(tmp_path / "own.pdparams").info.architecture.num_heads == 2


def test_a_published_width_has_its_number_of_heads(tmp_path):
    state = publishers.unilm_classifier(np.random.default_rng(0), width=192, depth=1, **HEADS)
    found = open_checkpoint(state).info.architecture
    assert (found.num_heads, found.head_dim) == (3, 64)


def test_a_config_with_other_heads_is_named(tmp_path):
    keys = {"MODEL__USE_REL_POS_BIAS": False, "MODEL__USE_ABS_POS_EMB": True, "DATA__IMAGE_SIZE": 12}
    keys |= {"MODEL__PATCH_SIZE": 4, "MODEL__NUM_CLASSES": 5, "MODEL__NUM_HEADS": 3}
    model = tiny_beit(use_rel_pos_bias=False, use_abs_pos_emb=True)
    report = load_pretrained(model, hub(tmp_path, sizes=HEADS, num_attention_heads=2, layer_norm_eps=1e-12))
    found = report.mismatches(tiny_config(**keys))
    assert "MODEL.NUM_HEADS is 3, the checkpoint's is 2" in found
    assert "MODEL.LAYER_NORM_EPS is 1e-06, the checkpoint's is 1e-12" in found


@pytest.mark.parametrize(
    ("key", "value", "actual"),
    [
        ("hidden_size", 32, "24"),
        ("num_hidden_layers", 3, "2"),
        ("num_attention_heads", 4, "3"),
        ("intermediate_size", 48, "96"),
        ("patch_size", 8, "4"),
        ("image_size", [12, 16], "12"),
        ("use_absolute_position_embeddings", True, "False"),
        ("use_relative_position_bias", False, "True"),
    ],
)
def test_what_the_tensors_contradict_is_named(tmp_path, key, value, actual):
    (note,) = open_checkpoint(hub(tmp_path, **{key: value})).info.notes
    assert (
        note
        == f"{key} is {value} in the JSON beside the weights, {actual} by the tensors: the tensors are used"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [("hidden_act", "relu"), ("hidden_act", "gelu_new"), ("num_channels", 1), ("problem_type", "regression")],
)
def test_what_the_package_does_not_have_is_named_and_not_predicted_with(tmp_path, key, value):
    folder = hub(tmp_path, **{key: value})
    assert f"note: {key} is {value}, this package has " in str(load_pretrained(tiny_beit(), folder))
    with pytest.raises(ValueError, match=f"{key} is {value}, this package has "):
        load_predictor(folder)


def test_an_edited_config_takes_precedence_over_metadata_in_the_weights(tmp_path):
    folder = hub(tmp_path, sizes=HEADS, num_attention_heads=2)
    convert(folder, tmp_path / "copy", publisher="huggingface")
    assert open_checkpoint(tmp_path / "copy").info.notes == ()
    file = tmp_path / "copy/config.json"
    file.write_text(file.read_text().replace('"num_attention_heads": 2', '"num_attention_heads": 4'))
    found = open_checkpoint(tmp_path / "copy").info
    assert found.architecture.num_heads == 4
    assert found.notes[0].startswith(
        "num_attention_heads: 4 in the JSON, 2 in the metadata inside of the weights"
    )


def test_the_image_size_of_a_model_without_positions_is_that_of_the_file(tmp_path):
    sizes = {"tables": False, "positions": False}
    folder = hub(tmp_path, sizes=sizes, use_absolute_position_embeddings=False)
    assert load_predictor(folder).image_size == (12, 12)


def test_heads_of_another_size_than_width_by_heads(tmp_path):
    model = tiny_beit(head_dim=4)
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    write(tmp_path / "beit_base.pdparams", state)
    assert open_checkpoint(tmp_path / "beit_base.pdparams").info.architecture.head_dim == 4
    assert load_predictor(tmp_path / "beit_base.pdparams").model.blocks[0].attn.head_dim == 4
    with pytest.raises(ValueError, match="its heads have 4 channels"):
        convert(tmp_path / "beit_base.pdparams", tmp_path / "timm", publisher="timm")
