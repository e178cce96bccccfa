"""Webdataset tars: samples, labels, shards of a split, damage."""

from __future__ import annotations

import json
import pickle

import pytest

from beit.data.dataset import build_dataset
from beit.data.sampler import Sample
from beit.data.splits import open_split, open_unlabeled
from tests.data.packed import gray, png, write_tar
from tests.tiny import tiny_config


def sample(key, value, label):
    return {f"{key}.png": png(value), f"{key}.cls": str(label).encode(), f"{key}.json": b"{}"}


def config_of(root, **keys):
    return tiny_config(root, root, DATA__DATASET="webdataset", **keys)


def shards(root):
    write_tar(root / "set-train-0000.tar", {**sample("n1/x", 1, 0), **sample("n1/y", 2, 2)})
    write_tar(root / "set-train-0001.tar", sample("z", 3, 1))
    write_tar(
        root / "set-validation-0000.tar",
        {"q.json": json.dumps({"label": 2}).encode(), "q.seg.v2.PNG": png(4)},
    )
    write_tar(root / "set-test-0000.tar", sample("t", 5, 0))


def test_samples_and_labels_of_the_tars_of_each_split(tmp_path):
    shards(tmp_path)
    train, val = (open_split(config_of(tmp_path), split) for split in ("train", "val"))
    names = [train.name(index) for index in range(len(train))]
    assert names == ["set-train-0000.tar/n1/x.png", "set-train-0000.tar/n1/y.png", "set-train-0001.tar/z.png"]
    assert train.labels.tolist() == [0, 2, 1] and train.class_names is None
    assert (val.name(0), val.labels.tolist()) == ("set-validation-0000.tar/q.seg.v2.PNG", [2])
    data = pickle.loads(pickle.dumps(build_dataset(config_of(tmp_path), "train")))
    assert [gray(data.images.open(index).decode()) for index in (2, 0, 1)] == [3, 1, 2]
    assert [int(data[Sample(index, 0)]["label"]) for index in (2, 0, 1)] == [1, 0, 2]


def test_names_with_a_leading_dot_slash_and_hidden_files(tmp_path):
    write_tar(
        tmp_path / "train.tar", {"./a.png": png(3), "./a.cls": b"1", "./._a.png": b"", "./.DS_Store": b""}
    )
    images = open_split(config_of(tmp_path), "train")
    assert (images.name(0), images.labels.tolist(), images.notes) == ("train.tar/a.png", [1], ())
    assert images.read(0) == png(3)


def test_class_names_come_from_a_file_beside_the_tars(tmp_path):
    shards(tmp_path)
    (tmp_path / "class_names.txt").write_text("cat\ndog\nfox\n")
    assert open_split(config_of(tmp_path), "train").class_names == ("cat", "dog", "fox")


def test_one_tar_a_split_and_no_labels(tmp_path):
    write_tar(tmp_path / "train.tar", {"a.png": png(1), "b.txt": b"", "c.png": png(2)})
    images = open_unlabeled(config_of(tmp_path), "train")
    assert len(images) == 2 and images.labels is None and open_unlabeled(config_of(tmp_path), "val") is None
    assert images.notes == (f"{tmp_path}: 1 samples of train left out, they have no image",)
    with pytest.raises(FileNotFoundError, match=r"no webdataset files of val\. The layouts"):
        open_split(config_of(tmp_path), "val")
    write_tar(tmp_path / "test.tar", sample("a", 1, 0))
    with pytest.raises(
        FileNotFoundError, match="files of val; test is not used in a run: rename its files to val"
    ):
        open_split(config_of(tmp_path), "val")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.png": b""}, r"train\.tar: the sample a has no label; expected a member a\.cls"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"0"}, r"the sample a has 2 images, a\.png and a\.jpg"),
        ({"a.png": b"", "a.cls": b"cat"}, r"a\.cls is b'cat'; expected the number of the class"),
        ({"a.png": b"", "a.json": b"{}"}, r"a\.json is b'\{\}'; expected .* under the key label"),
        ({"a.png": b"", "a.cls": b"9" * 20}, r"a\.cls is b'9{20}'; expected the number of the class"),
        ({"a.png": b"", "a.cls": b"true"}, r"expected the number of the class"),
        (
            {"a.png": b"", "a.cls": b"3"},
            r"a\.png has label 3 for MODEL\.NUM_CLASSES=3.*say `-opts MODEL\.NUM_CLASSES 4`",
        ),
        ({"a.png": b"", "a.cls": b"1", "b.png": b"", "b.cls": b"3"}, r"the labels seem to count from 1"),
        ({"a.png": b"", "a.cls": b"-1"}, r"a\.png has label -1, labels count from 0"),
        ({"a.cls": b"1"}, r"the tars of train have no images"),
        ({"../a.png": b"", "../a.cls": b"1"}, r"leaves the archive"),
    ],
)
def test_errors_name_tar_and_sample(tmp_path, files, message):
    write_tar(tmp_path / "train.tar", files)
    with pytest.raises(ValueError, match=message):
        open_split(config_of(tmp_path), "train")


def test_a_cut_off_tar(tmp_path):
    path = write_tar(tmp_path / "train.tar", {**sample("a", 1, 0), **sample("b", 1, 0)})
    path.write_bytes(path.read_bytes()[:3700])
    with pytest.raises(ValueError, match=r"train\.tar is cut off (in|after) the member [ab]\.[a-z]+"):
        open_split(config_of(tmp_path), "train")


def test_names_of_shards(tmp_path):
    write_tar(tmp_path / "train-val.tar", sample("a", 1, 0))
    with pytest.raises(ValueError, match="words train and val; expected one split"):
        open_split(config_of(tmp_path), "train")
    (tmp_path / "train-val.tar").unlink()
    for folder in "xy":
        write_tar(tmp_path / folder / "train.tar", sample("a", 1, 0))
    with pytest.raises(ValueError, match="several folders, x, y: several data sets"):
        open_split(config_of(tmp_path), "train")
    with pytest.raises(FileNotFoundError, match=r"train\.tar is a file, not a folder"):
        open_split(config_of(tmp_path / "x" / "train.tar"), "train")
    write_tar(tmp_path / "x" / "train-00001-of-00003.tar", sample("a", 1, 0))
    with pytest.raises(ValueError, match=r"2 of 3 files train-\*\.tar are missing, first number 0"):
        open_split(config_of(tmp_path / "x"), "train")
