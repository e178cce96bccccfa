"""Every step of `preprocessor_config.json` is taken, travels to other forms, and is compared with metadata and configs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.config import dump
from beit.containers.errors import CheckpointError
from beit.data.model_input import build_eval_transform, prepare_image
from beit.deploy.export import export
from beit.deploy.runner import load_runner
from beit.models.load import load_pretrained
from beit.predict.inference import inference_model, load_predictor
from beit.preprocessing import Preprocessing
from tests.metadata.processor_cases import CASES, SIDE, images, transformers_probabilities, write_folder
from tests.tiny import tiny_beit, tiny_config

STORED = json.loads((Path(__file__).parent / "processor_probabilities.json").read_text())


def probabilities(model, case):
    return np.stack([result["pred_scores"] for result in inference_model(model, images(case))])


@pytest.mark.parametrize("case", CASES)
def test_probabilities_equal_those_of_transformers(tmp_path, case):
    found = probabilities(write_folder(tmp_path / "hub", case), case)
    np.testing.assert_allclose(found, STORED[case], atol=2e-6)


def test_the_cases_differ():
    first = [STORED[case][-1] for case in CASES]
    assert len({tuple(row) for row in first}) > len(CASES) / 2


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES)
def test_transformers_gives_the_stored_probabilities(tmp_path, case):
    pytest.importorskip("torch"), pytest.importorskip("transformers")
    found = transformers_probabilities(write_folder(tmp_path / "hub", case), case)
    np.testing.assert_allclose(found, STORED[case], atol=1e-5)


def without_metadata(folder):
    """The folder as its publisher writes it: tensors without what `convert` notes in the file."""
    file = folder / "model.safetensors"
    save_file(load_file(file), file)
    return folder


def same(first, second):
    return replace(first, source="") == replace(second, source="")


@pytest.mark.parametrize(
    "case", ["size and crop, all", "shorter side and crop, no rescale", "neither, factor"]
)
@pytest.mark.parametrize(
    "form", ["canonical.pdparams", "canonical.safetensors", "paddlevit.pdparams", "huggingface"]
)
def test_the_steps_travel(tmp_path, case, form):
    source = write_folder(tmp_path / "hub", case)
    convert(source, tmp_path / form, publisher=form.partition(".")[0])
    if form == "huggingface":
        without_metadata(tmp_path / form)
    expected, found = (open_checkpoint(path).info.preprocessing for path in (source, tmp_path / form))
    assert same(found, expected)
    np.testing.assert_allclose(probabilities(tmp_path / form, case), STORED[case], atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "crop_pct", "mode"),
    [
        ({}, 1.0, "squash"),
        ({"size": {"height": 16, "width": 16}, "do_center_crop": True, "crop_size": SIDE}, 0.75, "squash"),
        ({"size": {"shortest_edge": 16}, "do_center_crop": True, "crop_size": SIDE}, 0.75, "center"),
        ({"size": {"shortest_edge": 13}, "do_center_crop": True, "crop_size": SIDE}, 12 / 13, "center"),
        ({"size": {"height": 16, "width": 13}, "do_center_crop": True, "crop_size": SIDE}, None, None),
        ({"do_resize": False, "do_center_crop": True, "crop_size": SIDE}, None, None),
    ],
)
def test_timm_gets_the_crop_that_it_can_state(tmp_path, changes, crop_pct, mode):
    source = write_folder(tmp_path / "hub", "size, all", **changes)
    report = convert(source, tmp_path / "timm", publisher="timm")
    stated = json.loads((tmp_path / "timm/config.json").read_text())["pretrained_cfg"]
    assert (stated.get("crop_pct"), stated.get("crop_mode")) == (crop_pct, mode)
    assert ("timm has no place for this preprocessing" in str(report)) == (crop_pct is None)
    assert ("timm rounds odd margins" in str(report)) == (crop_pct not in (None, 1.0))
    assert same(
        open_checkpoint(tmp_path / "timm").info.preprocessing, open_checkpoint(source).info.preprocessing
    )
    if crop_pct:
        image = images("size, all")[1]  # whose margins both libraries round alike
        pixels = [
            load_predictor(path).tensor([image]).numpy()
            for path in (source, without_metadata(tmp_path / "timm"))
        ]
        np.testing.assert_array_equal(*pixels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"do_pad": True}, "do_pad True is not supported"),
        ({"crop_pct": 0.9}, "crop_pct 0.9 is not supported"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor is not supported"),
        ({"size": None}, "size None is not supported"),
        ({"size": {"longest_edge": 12}}, "longest_edge"),
        ({"do_center_crop": None}, "do_center_crop is not stated"),
        ({"do_center_crop": True, "crop_size": "12"}, "crop_size 12 is not supported"),
        ({"resample": 6}, "resample 6 is not one of 0 to 5"),
        ({"rescale_factor": 0}, "rescale_factor 0 is not a positive number"),
        ({"image_std": [0.5, 0.5]}, "image_mean"),
        ({"image_std": [0.5, 0.5, 0]}, "image_mean"),
    ],
)
def test_what_is_not_supported_is_an_error_that_names_the_key(tmp_path, changes, words):
    folder = write_folder(tmp_path / "hub", "size, all", **changes)
    with pytest.raises(ValueError, match=f"the preprocessing of .* is not known: .*{words}"):
        load_predictor(folder)
    given = Preprocessing((0.5,) * 3, (0.5,) * 3, crop_pct=1.0)
    assert load_predictor(folder, preprocessing=given).preprocessing.crop_pct == 1.0


def test_images_that_do_not_get_the_size_of_the_model_are_errors(tmp_path):
    image = images("size, all")[0]
    folder = write_folder(tmp_path / "a", "neither, all")
    with pytest.raises(ValueError, match=r"25x37 pixels .* after the resize, the model takes 12x12"):
        load_predictor(folder)([image])
    folder = write_folder(tmp_path / "b", "size, all", size={"height": 16, "width": 16})
    with pytest.raises(
        ValueError, match=r"makes images of 16x16 .* takes 12x12: .*DATA.IMAGE_SIZE \[16, 16\]"
    ):
        load_predictor(folder)([image])


def test_arguments_of_the_caller_replace_the_steps(tmp_path):
    folder = write_folder(tmp_path / "hub", "shorter side and crop, all")
    own = load_predictor(folder).preprocessing
    assert load_predictor(
        folder, preprocessing=Preprocessing(crop_pct=0.5, interpolation="")
    ).preprocessing == (replace(own, crop_pct=0.5, resize=None))
    half = load_predictor(
        folder, preprocessing=Preprocessing(mean=(0.5,) * 3, interpolation="")
    ).preprocessing
    assert same(half, replace(own, mean=(0.5,) * 3))


def test_a_config_can_state_the_steps(tmp_path):
    folder = write_folder(tmp_path / "hub", "size and crop, all")
    report = load_pretrained(tiny_beit(), folder)
    keys = {
        "DATA__IMAGE_SIZE": 12,
        "MODEL__NUM_CLASSES": 5,
        "MODEL__PATCH_SIZE": 4,
        "DATA__INTERPOLATION": "bicubic",
    }
    keys |= {"DATA__IMAGENET_MEAN": [0.4, 0.5, 0.6], "DATA__IMAGENET_STD": [0.2, 0.3, 0.4]}
    (sentence,) = report.mismatches(tiny_config(**keys))
    assert sentence.startswith("DATA.RESIZE is None, the checkpoint's is [19, 15] (preprocessor_config.json")
    (sentence,) = report.mismatches(tiny_config(**keys, DATA__RESIZE=[19, 15], DATA__CENTER_CROP=False))
    assert sentence.startswith("DATA.CENTER_CROP is False, the checkpoint's is True")
    config = tiny_config(**keys, DATA__RESIZE=[19, 15])
    assert report.mismatches(config) == []
    image = images("size and crop, all")[0]
    expected = prepare_image(image, (12, 12), report.info.preprocessing)
    np.testing.assert_array_equal(build_eval_transform(config)(image)["image"], expected)
    assert (build_eval_transform(tiny_config(**keys))(image)["image"] != expected).any()


@pytest.mark.parametrize("resize", ["40", [40], [1, 2, 3], [8, -1], {"side": 4}])
def test_a_resize_in_the_metadata_that_is_no_size_is_not_used(tmp_path, resize):
    convert(write_folder(tmp_path / "hub", "size and crop, all"), tmp_path / "own.pdparams")
    file = tmp_path / "own.pretrained_cfg.json"
    content = json.loads(file.read_text())
    content["pretrained_cfg"]["resize"] = resize
    file.write_text(json.dumps(content))
    found = open_checkpoint(tmp_path / "own.pdparams").info.preprocessing
    assert (found.resize, found.unknown) == (
        (40, []) if resize == [40] else (None, ["crop_pct", "interpolation"])
    )


@pytest.mark.parametrize("publisher", ["huggingface", "timm"])
def test_a_file_that_people_edit_takes_precedence_over_metadata_in_the_weights(tmp_path, publisher):
    source = tmp_path / "source.safetensors"
    convert(write_folder(tmp_path / "hub", "size, all"), source)
    convert(source, tmp_path / "folder", publisher=publisher)
    found = open_checkpoint(tmp_path / "folder").info
    assert same(found.preprocessing, open_checkpoint(source).info.preprocessing) and found.notes == ()
    file = tmp_path / "folder" / ("preprocessor_config.json" if publisher == "huggingface" else "config.json")
    content = json.loads(file.read_text())
    stated = content if publisher == "huggingface" else content["pretrained_cfg"]
    stated["image_mean" if publisher == "huggingface" else "mean"] = [0.1, 0.2, 0.3]
    file.write_text(json.dumps(content))
    found = open_checkpoint(tmp_path / "folder").info
    assert same(
        found.preprocessing, replace(open_checkpoint(source).info.preprocessing, mean=(0.1, 0.2, 0.3))
    )
    (note,) = found.notes
    assert note.startswith(f"mean: (0.1, 0.2, 0.3) in {file.name}, (0.4, 0.5, 0.6) in the metadata inside")


def test_edited_class_names_take_precedence(tmp_path):
    convert(write_folder(tmp_path / "hub", "size, all"), tmp_path / "copy", publisher="huggingface")
    file = tmp_path / "copy/config.json"
    file.write_text(file.read_text().replace('"name 3"', '"cat"'))
    found = open_checkpoint(tmp_path / "copy").info
    assert found.class_names == ("name 0", "name 1", "name 2", "cat", "name 4")
    assert found.notes[0].startswith(
        "the class names: 'cat' (class 3) in the JSON, 'name 3' (class 3) in the metadata"
    )


def test_a_run_keeps_the_steps_and_runs_of_earlier_versions_are_read(tmp_path):
    state = dict(open_checkpoint(write_folder(tmp_path / "hub", "size, all")).state)
    write(tmp_path / "model.pdparams", state)
    config = tiny_config(
        DATA__IMAGE_SIZE=12,
        MODEL__PATCH_SIZE=4,
        DATA__RESIZE=[19, 15],
        DATA__CENTER_CROP=False,
        DATA__CROP_PCT=0.7,
    )
    (tmp_path / "config.yaml").write_text(dump(config))
    found = open_checkpoint(tmp_path).info.preprocessing
    assert (found.resize, found.center_crop, found.source) == (
        (19, 15),
        False,
        "config.yaml beside the weights",
    )
    earlier = [line for line in dump(config).splitlines(keepends=True) if "CENTER_CROP" not in line]
    text = "".join(earlier).replace("  RESIZE:\n  - 19\n  - 15\n", "")
    assert "RESIZE:" not in text
    (tmp_path / "config.yaml").write_text(text)
    found = open_checkpoint(tmp_path).info.preprocessing
    assert (found.resize, found.center_crop, found.crop_pct) == (None, True, 0.7)


def test_a_damaged_config_of_a_run_is_an_error_and_that_of_another_program_is_not(tmp_path):
    state = dict(open_checkpoint(write_folder(tmp_path / "hub", "size, all")).state)
    write(tmp_path / "model.pdparams", state)
    text = dump(tiny_config(DATA__IMAGE_SIZE=12, MODEL__PATCH_SIZE=4))
    (tmp_path / "config.yaml").write_text(text.replace("DATA:", "DATA: ]", 1))
    with pytest.raises(CheckpointError, match="/config.yaml is not a valid YAML file"):
        open_checkpoint(tmp_path / "model.pdparams")
    for other in ("", "model:\n  name: beit\n", "MODEL:\n  NAME: beit\n"):
        (tmp_path / "config.yaml").write_text(other)
        assert (
            open_checkpoint(tmp_path / "model.pdparams").info.preprocessing.source
            != "config.yaml beside the weights"
        )


def test_an_exported_graph_keeps_the_steps(tmp_path):
    case = "shorter side and crop, no rescale"
    folder = write_folder(tmp_path / "hub", case)
    for number, image in enumerate(images(case)):
        image.save(tmp_path / f"{number}.png")
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    export(load_predictor(folder), tmp_path / "graph", paths, output="probabilities")
    runner = load_runner(tmp_path / "graph")
    found = runner(np.stack([runner.description.open(path) for path in paths]))["probabilities"]
    np.testing.assert_allclose(found, STORED[case], atol=1e-5)


def test_reduced_labels_are_stated_and_compared(tmp_path):
    folder = write_folder(tmp_path / "hub", "size, all", do_reduce_labels=True)
    assert open_checkpoint(folder).info.preprocessing.reduce_labels is True
    convert(folder, tmp_path / "again", publisher="huggingface")
    assert json.loads((tmp_path / "again/preprocessor_config.json").read_text())["do_reduce_labels"] is True
