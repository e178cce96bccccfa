"""From a path or a published name to the weights: files in several parts, folders with any file name, exported graphs."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.containers.errors import CheckpointError
from beit.models.load import load_pretrained
from beit.predict.resolve import find_weights
from beit.tools.convert import main as convert_command
from beit.train.average import average
from beit.zoo import path_of
from beit.zoo.table import PUBLISHED
from tests.checkpoint import publishers
from tests.tiny import tiny_beit

UNILM = publishers.unilm_classifier(np.random.default_rng(0))
NAME = "beit_base_patch16_224"


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "w.pdparams", publishers.paddlevit(UNILM))
    return tmp_path / "w.pdparams"


@pytest.fixture
def folder(file, tmp_path):
    """A folder of transformers."""
    convert(file, tmp_path / "hf", publisher="huggingface")
    weights = tmp_path / "hf/model.safetensors"
    save_file(load_file(weights), weights)  # without the metadata that this package adds
    return tmp_path / "hf"


def split(folder, count=3, index="model.safetensors.index.json", suffix=".safetensors", writer=save_file):
    """Replace the weights of a folder by files with a part of the tensors each, and their index."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    stem = index.split(".")[0]
    names = {name: f"{stem}-{k % count + 1:05}-of-{count:05}{suffix}" for k, name in enumerate(state)}
    for part in set(names.values()):
        writer({name: state[name] for name, place in names.items() if place == part}, folder / part)
    content = {"metadata": {"total_size": 1}, "weight_map": names}
    (folder / index).write_text(json.dumps(content), encoding="utf-8")
    return folder / index


def write_parts(state, path):
    """As pytorch_model-00001-of-00002.bin, whose form is recognized by its first bytes."""
    write(path.with_suffix(".pth"), state)
    path.with_suffix(".pth").rename(path)


PARTS = {
    "safetensors": {},
    "bin": {"index": "pytorch_model.bin.index.json", "suffix": ".bin", "writer": write_parts},
    "PaddleNLP": {"index": "model_state.pdparams.index.json", "suffix": ".pdparams", "writer": write_parts},
}


@pytest.mark.parametrize("form", PARTS)
def test_weights_in_several_files_are_those_of_one(folder, form):
    expected, whole = open_checkpoint(folder)
    index = split(folder, **PARTS[form])
    for source in (folder, index, str(index)):
        state, info = open_checkpoint(source)
        assert (info.publisher, info.kind, info.preprocessing) == (
            whole.publisher,
            whole.kind,
            whole.preprocessing,
        )
        assert state.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(state[name], array)
    assert "in 3 files" in info.container and info.class_names == whole.class_names
    assert not load_pretrained(tiny_beit(), folder).new


def test_a_missing_part_is_one_error(folder):
    index = split(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        CheckpointError,
        match=r"index.json: 1 of its 3 files is missing: model-00002-of-00003.safetensors; copy",
    ) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    index.unlink()
    with pytest.raises(CheckpointError, match=r"holds 2 weights files: .*\*.index.json is missing"):
        open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="is one of the 3 files of its weights; name the folder"):
        open_checkpoint(folder / "model-00001-of-00003.safetensors")


def changed(index, **files):
    content = json.loads(index.read_text())
    content["weight_map"] |= files
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (
            lambda index: changed(index, x="../w.pdparams"),
            r"\.\./w.pdparams is no name of a file in its folder",
        ),
        (lambda index: changed(index, x="/etc/passwd"), "/etc/passwd is no name of a file"),
        (lambda index: changed(index, x=3), "3 is no name of a file"),
        (lambda index: changed(index, x=["a"]), "not an index of weights"),
        (lambda index: changed(index, x="model-00001-of-00003.safetensors"), "lacks x, which the index says"),
        (lambda index: index.write_text("{}"), "not an index of weights: it has no table weight_map"),
        (lambda index: index.write_text('{"weight_map": {}}'), "nothing is no name of a file"),
        (lambda index: index.write_text("[" * 100_000), "is not valid JSON: maximum recursion depth"),
        (lambda index: index.write_text("[" + "{}," * 1_000_000 + "{}]"), "more than 1,000,000 values"),
    ],
)
def test_a_damaged_index_is_one_error(folder, break_it, words):
    index = split(folder)
    break_it(index)
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(folder)
    assert "index.json" in str(caught.value) and len(str(caught.value)) < 400


def test_two_files_with_one_tensor_are_refused(folder):
    split(folder, count=2)
    first, second = (folder / f"model-0000{k}-of-00002.safetensors" for k in (1, 2))
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(CheckpointError, match="00002.safetensors repeats .*, which another file holds"):
        open_checkpoint(folder)


def test_the_only_weights_file_of_a_folder_may_have_any_name(folder):
    (folder / "model.safetensors").rename(folder / "my beit.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "notes.txt"):
        (folder / name).write_bytes(b"not read")
    info = open_checkpoint(folder).info
    assert info.name == "hf/my beit.safetensors" and info.preprocessing.image_size == 12
    assert info.preprocessing.source == "preprocessor_config.json beside the weights"


def test_of_several_weights_files_none_is_guessed(tmp_path, file):
    (tmp_path / "more").mkdir()
    for name in ("epoch_1.pth", "epoch_2.pth"):
        write(tmp_path / "more" / name, UNILM)
    with pytest.raises(
        CheckpointError, match="holds 2 weights files: epoch_1.pth, epoch_2.pth; name one of them"
    ):
        open_checkpoint(tmp_path / "more")
    (tmp_path / "more/epoch_1.pth").unlink()
    assert open_checkpoint(tmp_path / "more").info.kind == "classifier"


@pytest.mark.parametrize("name", ["model.pdmodel", "model.pdiparams", "model.onnx", "folder"])
def test_exported_graphs_are_named(tmp_path, name):
    for part in ("export.json", "model.json", "model.pdmodel", "model.pdiparams", "model.onnx"):
        (tmp_path / part).write_bytes(b"\0" * 100)
    with pytest.raises(
        CheckpointError, match="an exported graph, which can be run .*load_runner.* name the weights"
    ):
        open_checkpoint(tmp_path if name == "folder" else tmp_path / name)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"base_code": {"magic": "pir"}, "program": {}}', "an exported graph of Paddle"),
        ('{"model_type": "beit"}', "JSON, not weights; name the folder or the weights beside it"),
    ],
)
def test_json_files_are_named(tmp_path, text, words):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path / "model.json")


def test_a_published_name_is_its_file_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    monkeypatch.setenv("BEIT_OFFLINE", "1")
    with pytest.raises(OSError, match=f"{NAME}.pdparams is not in the cache"):
        path_of(NAME)
    write(tmp_path / PUBLISHED[NAME].file_name, publishers.paddlevit(UNILM))
    np.testing.assert_array_equal(open_checkpoint(path_of(NAME)).state["cls_token"], UNILM["cls_token"])
    assert not load_pretrained(tiny_beit(), NAME).new
    convert_command([NAME, str(tmp_path / "theirs.pth"), "--to", "unilm"])
    assert open_checkpoint(tmp_path / "theirs.pth").info.publisher == "unilm"
    average((NAME, tmp_path / "theirs.pth"), tmp_path / "average.pdparams")
    assert open_checkpoint(tmp_path / "average.pdparams").info.publisher == "canonical"
    for source in ("beit_base_patch16_225", "timm/beit_base_patch16_224.in22k_ft_in22k_in2k"):
        for function in (path_of, find_weights, partial(load_pretrained, tiny_beit())):
            with pytest.raises(FileNotFoundError, match=f"{source} does not exist: .*; similar: .*beit_base"):
                function(source)


def test_a_path_that_does_not_exist(tmp_path):
    assert path_of(str(tmp_path)) == tmp_path
    with pytest.raises(FileNotFoundError, match=r"a\.pth does not exist: it is not a file or a folder"):
        open_checkpoint(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError, match=r"a\.pth does not exist: .* a name of beit.list_models\(\)$"):
        path_of(tmp_path / "a.pth")
