"""Stored token ids: computed once, equal to the tokenizer's output, refused if outdated; masks stay random."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest

from beit.data.sampler import Sample
from beit.tasks import TASKS
from tests.tiny import PRETRAIN, tiny_config, write_dataset

pytestmark = pytest.mark.filterwarnings("ignore:TOKENIZER.PRETRAINED names no file")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), train=9, val=2)


def make(data, folder, seed=0, **keys):
    paddle.seed(seed)  # determines the tokenizer's weights
    return TASKS["pretrain"](tiny_config(data, folder, **PRETRAIN | {"TOKENIZER__NUM_CODES": 300} | keys))


def cached(data, folder, **keys):
    return make(data, folder, DATA__TOKEN_CACHE=str(folder / "ids" / "tokens"), **keys)


def test_stored_ids_equal_those_of_the_second_view(data, tmp_path):
    task = cached(data, tmp_path)
    dataset = task.dataset("train")
    ids = np.load(tmp_path / "ids" / "tokens.npy")
    assert (ids.dtype, ids.shape) == (np.uint16, (9, 4))
    assert len(np.unique(ids)) > 1
    views = make(data, tmp_path).dataset("train")
    views.fixed_views = True
    for index in range(9):
        stored, live = dataset[Sample(index, 100 + index)], views[Sample(index, 200 + index)]
        assert set(stored) == {"image", "mask", "tokens", "index"}
        np.testing.assert_array_equal(stored["image"], live["image"])
        second = paddle.to_tensor(live["second"][None]).astype("float32") / 255
        np.testing.assert_array_equal(stored["tokens"], task._frozen[0].encode(second).numpy()[0])
    assert stored["tokens"].dtype == np.int64


def test_an_image_keeps_its_crop_but_not_its_mask(data, tmp_path):
    dataset = cached(data, tmp_path, MASK__RULE="random", MASK__NUM_PATCHES=2).dataset("train")
    visits = [dataset[Sample(3, seed)] for seed in range(8)]
    assert len({visit["image"].tobytes() for visit in visits}) == 1
    assert len({visit["mask"].tobytes() for visit in visits}) > 2
    live = make(data, tmp_path).dataset("train")
    assert len({live[Sample(3, seed)]["image"].tobytes() for seed in range(8)}) == 8


def test_a_second_run_uses_the_file(data, tmp_path, monkeypatch):
    cached(data, tmp_path).dataset("train")
    task = cached(data, tmp_path)
    monkeypatch.setattr(type(task._frozen[0]), "encode", None)
    assert len(task.dataset("train")) == 9


@pytest.mark.parametrize(
    ("keys", "seed", "what"),
    [
        ({}, 1, "tokenizer"),
        ({"TRAIN__SCALE": [0.5, 1.0]}, 0, "transform"),
        ({"SEED": 3}, 0, "seed"),
        ({"DATA__EXIF_ORIENTATION": True}, 0, "way of opening pictures"),
    ],
)
def test_an_outdated_file_is_refused(data, tmp_path, keys, seed, what):
    cached(data, tmp_path).dataset("train")
    with pytest.raises(ValueError, match=rf"tokens.npy was made with another {what}.*delete this one"):
        cached(data, tmp_path, seed=seed, **keys).dataset("train")


def test_other_images_are_refused(data, tmp_path):
    cached(data, tmp_path).dataset("train")
    other = write_dataset(tmp_path / "other", train=8, val=2)
    with pytest.raises(ValueError, match="another list of images"):
        cached(other, tmp_path).dataset("train")


def test_an_interrupted_fill_starts_again(data, tmp_path):
    cached(data, tmp_path).dataset("train")
    record = tmp_path / "ids" / "tokens.json"
    assert set(json.loads(record.read_text())) >= {"tokenizer", "list of images", "transform", "seed"}
    (tmp_path / "ids" / "tokens.npy").rename(tmp_path / "ids" / "tokens.partial")
    record.unlink()
    assert len(cached(data, tmp_path).dataset("train")) == 9


def test_validation_runs_the_tokenizer(data, tmp_path):
    assert "second" in cached(data, tmp_path).dataset("val")[Sample(0, 0)]
