"""Stored token ids: computed once, equal to the tokenizer's output, refused if outdated; masks stay random."""

from __future__ import annotations

import io
import json
import os

import numpy as np
import paddle
import pytest

from beit.data.sampler import Sample
from beit.tasks import TASKS, token_cache
from tests.tiny import PRETRAIN, tiny_config, write_dataset


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
        ({"DATA__EXIF_ORIENTATION": False}, 0, "way of opening pictures"),
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


def test_a_run_killed_before_the_ids_have_their_name_starts_again(data, tmp_path, monkeypatch):
    file, record = tmp_path / "ids" / "tokens.npy", tmp_path / "ids" / "tokens.json"

    def killed(self, target):
        if target == file:
            raise KeyboardInterrupt
        return self.rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(type(file), "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cached(data, tmp_path).dataset("train")
    assert record.exists() and not file.exists()
    assert len(cached(data, tmp_path).dataset("train")) == 9
    cached(data, tmp_path / "unbroken").dataset("train")
    np.testing.assert_array_equal(np.load(file), np.load(tmp_path / "unbroken" / "ids" / "tokens.npy"))


@pytest.mark.parametrize("name", ["tokens.npy", "tokens.json"])
def test_files_of_something_else_are_not_overwritten(data, tmp_path, name):
    file = tmp_path / "ids" / name
    file.parent.mkdir()
    file.write_text('{"tokens": "of a project of mine"}')
    with pytest.raises(ValueError, match=rf"{name}.*name another file"):
        cached(data, tmp_path).dataset("train")
    assert file.read_text() == '{"tokens": "of a project of mine"}'


def test_a_file_that_cannot_be_read_leaves_no_lock(data, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "read_json", lambda file: os.close(-1))  # an OSError
    record = tmp_path / "ids" / "tokens.json"
    record.parent.mkdir()
    record.touch()
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            cached(data, tmp_path).dataset("train")


def test_validation_runs_the_tokenizer(data, tmp_path):
    assert "second" in cached(data, tmp_path).dataset("val")[Sample(0, 0)]


def test_two_runs_do_not_fill_a_file_at_the_same_time(data, tmp_path, monkeypatch):
    """While one run fills the file another one is refused; the file of the first is whole."""
    refused = []
    original = token_cache.split_batch

    def encode(*arguments):
        with pytest.raises(
            ValueError, match="another run is filling DATA.TOKEN_CACHE=.*start this one after it"
        ):
            cached(data, tmp_path).dataset("train")
        refused.append(1)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "split_batch", encode)
        cached(data, tmp_path).dataset("train")
    assert refused
    first = np.load(tmp_path / "ids" / "tokens.npy")
    assert len(cached(data, tmp_path).dataset("train")) == 9
    assert sorted(path.name for path in (tmp_path / "ids").iterdir()) == [
        "tokens.json",
        "tokens.lock",
        "tokens.npy",
    ]
    monkeypatch.setattr(token_cache, "lock", lambda handle, wait: True)  # a file system without locks
    cached(data, tmp_path / "other").dataset("train")
    np.testing.assert_array_equal(np.load(tmp_path / "other" / "ids" / "tokens.npy"), first)


def test_a_file_that_another_run_has_finished_meanwhile_is_used(data, tmp_path, monkeypatch):
    cached(data, tmp_path).dataset("train")
    answers = iter([False, True])
    monkeypatch.setattr(token_cache.TokenCache, "_exists", lambda self: next(answers))
    monkeypatch.setattr(token_cache.TokenCache, "_fill", None)
    assert len(cached(data, tmp_path).dataset("train")) == 9


def test_rows_that_were_not_filled_are_noticed(data, tmp_path, monkeypatch):
    class Short(token_cache.EvalSampler):
        def __iter__(self):
            return iter(list(super().__iter__())[:-1])

    monkeypatch.setattr(token_cache, "EvalSampler", Short)
    with pytest.raises(ValueError, match="incomplete or damaged: row 8 has ids outside of 0 to 299"):
        cached(data, tmp_path).dataset("train")
    assert not (tmp_path / "ids" / "tokens.npy").exists() and not (tmp_path / "ids" / "tokens.json").exists()


def damaged(content: bytes) -> dict[str, bytes]:
    """Kinds of damage of a file of ids."""
    ids = np.load(io.BytesIO(content))

    def npy(array, **options):
        stream = io.BytesIO()
        np.save(stream, array, **options)
        return stream.getvalue()

    zeros = ids.copy()
    zeros[3:6] = 0
    large = ids.copy()
    large[8, 3] = 300
    archive = io.BytesIO()
    np.savez(archive, ids)
    return {
        "SHA-256": npy(zeros),
        "row 8 has ids outside of 0 to 299": npy(large),
        "row 0 has ids outside": npy(ids.astype(np.int32) - 300),
        "holds float32": npy(ids.astype(np.float32)),
        "holds int64": npy(ids.astype(np.int64)),
        r"holds uint16 \[8, 4\]": npy(ids[:8]),
        r"holds uint16 \[9, 3\]": npy(ids[:, :3]),
        r"holds uint16 \[36\]": npy(ids.ravel()),
        "not a .npy file of numbers": npy(ids.astype(object), allow_pickle=True),
        "is not a .npy file": archive.getvalue(),
        "damaged, it is": content[:-1],
        "damaged, it is not": content[:40],
        "it is not a .npy": b"",
        "damaged, it is not a": b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((   ",
    }


def test_damaged_files_are_refused(data, tmp_path):
    cached(data, tmp_path).dataset("train")
    file = tmp_path / "ids" / "tokens.npy"
    for words, content in damaged(file.read_bytes()).items():
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words) as caught:
            cached(data, tmp_path).dataset("train")
        assert "\n" not in str(caught.value) and "delete this one and tokens.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_damaged_records_are_refused(data, tmp_path, content):
    cached(data, tmp_path).dataset("train")
    (tmp_path / "ids" / "tokens.json").write_bytes(content)
    with pytest.raises(ValueError, match="tokens.json is damaged"):
        cached(data, tmp_path).dataset("train")


def test_files_of_earlier_versions_are_used(data, tmp_path):
    """They have no digest; rows of zeros are reported."""
    cached(data, tmp_path).dataset("train")
    file, record = tmp_path / "ids" / "tokens.npy", tmp_path / "ids" / "tokens.json"
    stored = json.loads(record.read_text())
    earlier = ("tokenizer", "list of images", "transform", "way of opening pictures", "seed")
    record.write_text(json.dumps({name: stored[name] for name in earlier}))
    assert len(cached(data, tmp_path).dataset("train")) == 9
    ids = np.load(file)
    ids[2:5] = 0
    np.save(file, ids)
    with pytest.warns(UserWarning, match="3 of 9 images have the token 0 everywhere"):
        assert len(cached(data, tmp_path).dataset("train")) == 9


def test_a_vocabulary_that_leaves_no_mark_for_unfilled_rows_takes_a_wider_type(data, tmp_path):
    for codes, dtype in ((65535, np.uint16), (65536, np.int32)):
        folder = tmp_path / str(codes)
        cached(data, folder, TOKENIZER__NUM_CODES=codes).dataset("train")
        assert np.load(folder / "ids" / "tokens.npy").dtype == dtype
