"""The weights of a run, copied anywhere without other files, predict as in the run folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest

import beit
from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.containers.errors import CheckpointError
from beit.data.image_mask import even_palette, read_palette
from beit.data.scenes import write_scenes
from beit.train.run import run
from tests.tiny import PRETRAIN, SEGMENT, tiny_config, write_dataset

OWN = {"DATA__CROP_PCT": 0.8, "DATA__IMAGENET_MEAN": [0.1, 0.2, 0.3], "DATA__INTERPOLATION": "bilinear"}
NAMES = ("花", "天空", "café")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    data = write_dataset(root / "data")
    (data / "class_names.txt").write_text("\n".join(NAMES) + "\n", encoding="utf-8")
    run(tiny_config(data, root / "out", TRAIN__NUM_EPOCHS=1, **OWN))
    return root / "out"


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """The output folder of a segmentation run on data with colors of their own."""
    root = tmp_path_factory.mktemp("segmentation")
    run(tiny_config(write_scenes(root / "data"), root / "out", **SEGMENT | {"TRAIN__MAX_STEPS": 1}))
    return root / "out"


@pytest.mark.parametrize(
    "file", ["best.pdparams", "model.pdparams", "latest.pdparams", "epoch_0001.pdparams"]
)
def test_a_file_alone_predicts_as_the_run(trained, tmp_path, file):
    alone = shutil.copy(trained / file, tmp_path / "mine.pdparams")
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    found, expected = beit.load_predictor(alone), beit.load_predictor(trained / file)
    assert found.class_names == expected.class_names == NAMES
    for name in ("mean", "std", "crop_pct", "interpolation", "exif_orientation", "image_size"):
        assert getattr(found.preprocessing, name) == getattr(expected.preprocessing, name)
    assert (found.preprocessing.mean, found.preprocessing.crop_pct) == ((0.1, 0.2, 0.3), 0.8)
    results = [beit.inference_model(model, image)["pred_scores"] for model in (found, expected)]
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("target", ["out.pdparams", "out.safetensors", "folder"])
def test_conversions_of_a_file_alone_keep_names_and_crop(trained, tmp_path, target):
    alone = shutil.copy(trained / "best.pdparams", tmp_path / "mine.pdparams")
    convert(alone, tmp_path / target, publisher="huggingface" if target == "folder" else "canonical")
    (tmp_path / "moved").mkdir()
    (tmp_path / target).rename(tmp_path / "moved" / target)
    found = beit.load_predictor(tmp_path / "moved" / target)
    assert found.class_names == NAMES
    assert found.preprocessing.mean == (0.1, 0.2, 0.3)
    view = found.view(beit.load_predictor(trained).open(np.zeros((30, 40, 3), np.uint8)))
    assert view.size == (16, 16)
    assert (
        found.preprocessing.resize_and_crop[0]
        == beit.load_predictor(trained).preprocessing.resize_and_crop[0]
        == 20
    )


def test_what_is_edited_beside_the_weights_is_used_and_reported(trained, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "run")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(config.replace("CROP_PCT: 0.8", "CROP_PCT: 0.5"), encoding="utf-8")
    (folder / "class_names.txt").write_text("a\nb\nc\n", encoding="utf-8")
    info = beit.load_pretrained(beit.build_beit(tiny_config()), folder / "best.pdparams").info
    assert (info.preprocessing.crop_pct, info.class_names) == (0.5, ("a", "b", "c"))
    assert any("config.yaml beside the weights describes another" in note for note in info.notes)
    untouched = beit.load_pretrained(beit.build_beit(tiny_config()), trained / "best.pdparams").info
    assert not any("beside the weights" in note for note in untouched.notes)


def test_paddle_load_gives_the_tensors_alone(trained):
    state = paddle.load(str(trained / "best.pdparams"))
    model = beit.build_beit(tiny_config())
    assert state.keys() == model.state_dict().keys()
    assert model.set_state_dict(state) == ([], [])


def test_a_config_inside_of_weights_cannot_do_harm(trained, tmp_path):
    state = read(trained / "best.pdparams").tree
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    for text, message in (
        (bomb, "aliases are not supported"),
        ("BASE: /etc/passwd", "cannot include other files"),
    ):
        write(tmp_path / "bad.pdparams", state, metadata={"run_config": text})
        with pytest.raises(ValueError, match=message):
            beit.load_predictor(tmp_path / "bad.pdparams")
    with pytest.raises(ValueError, match="only .safetensors and .pdparams hold metadata"):
        write(tmp_path / "other.pth", state, metadata={"run_config": text})


def test_damaged_metadata_are_an_error(trained, tmp_path):
    content = (trained / "best.pdparams").read_bytes()[:-78]  # without the line of the checksum
    start = content.rindex(b"\nBEIT-METADATA ") + 15
    for bad in (b"", b"[]", b'{"run_config": 1}', b"[" * 100_000):
        (tmp_path / "bad.pdparams").write_bytes(content[:start] + bad)
        with pytest.raises(CheckpointError, match="the metadata behind the pickle are damaged"):
            read(tmp_path / "bad.pdparams")


@pytest.mark.parametrize("file", ["model.pdparams", "latest.pdparams"])
def test_weights_of_a_segmentation_model_keep_its_colors(painted, tmp_path, file):
    colors = read_palette(painted / "palette.txt", 5)
    assert colors != even_palette(5)
    alone = shutil.copy(painted / file, tmp_path / "mine.pdparams")
    assert beit.load_predictor(alone).palette == colors
    convert(alone, tmp_path / "other.pth", publisher="unilm")
    config = painted / "config.yaml"
    assert beit.load_predictor(tmp_path / "other.pth", config=config).palette == colors
    (tmp_path / "palette.txt").write_text("1 2 3\n" * 5)  # beside the weights, where people edit it
    assert set(beit.load_predictor(alone).palette) == {(1, 2, 3)}


def test_wrong_colors_of_weights_are_an_error(painted, tmp_path):
    state = read(painted / "model.pdparams")
    for colors in ([[1, 2, 3]] * 4, [[1, 2]] * 5, [[1, 2, 300]] * 5, [1, 2, 3, 4, 5]):
        metadata = {**state.metadata, "palette": json.dumps(colors)}
        write(tmp_path / "bad.pdparams", state.tree, metadata=metadata)
        with pytest.raises(CheckpointError, match=r"expected 5 colors \[red, green, blue\]"):
            beit.load_predictor(tmp_path / "bad.pdparams")


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys", [SEGMENT, PRETRAIN | {"MODEL__EARLY_LAYERS": 1}], ids=["segment", "pretrain"]
)
def test_models_of_other_tasks_need_no_config_either(tmp_path, keys):
    data = tmp_path / "data"
    (write_scenes if keys is SEGMENT else write_dataset)(data)
    run(tiny_config(data, tmp_path / "out", **keys | {"TRAIN__NUM_EPOCHS": 1}))
    alone = shutil.copy(tmp_path / "out" / "model.pdparams", tmp_path / "alone.pdparams")
    found, expected = beit.load_predictor(alone), beit.load_predictor(tmp_path / "out")
    assert type(found) is type(expected) and found.preprocessing.mean == expected.preprocessing.mean
    assert found.class_names == expected.class_names
