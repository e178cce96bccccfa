"""CIFAR-10 and CIFAR-100 in the forms in which they are published."""

from __future__ import annotations

import gzip
import io
import pickle
import pickletools
import struct

import numpy as np
import pytest

from beit.data import cifar
from beit.data.cifar import VERSIONS
from beit.data.dataset import build_dataset
from beit.data.sampler import Sample
from beit.data.splits import open_split, open_unlabeled
from tests.data.packed import tar_bytes, write_tree
from tests.tiny import tiny_config

NAMES = {"cifar10": ["airplane", "car", "bird"], "cifar100": ["apple", "fish", "baby"]}


def python2(content):
    """The pickle of a dict as Python 2 and NumPy 1 write it, with protocol 2: texts and array bytes are opcodes U and T."""

    def text(data):
        return (
            b"U" + bytes([len(data)]) + data
            if len(data) < 256
            else b"T" + struct.pack("<i", len(data)) + data
        )

    def value(item):
        if isinstance(item, np.ndarray):
            shape = (
                b"J" + struct.pack("<i", item.shape[0]) + b"J" + struct.pack("<i", item.shape[1]) + b"\x86"
            )
            dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
            empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            return empty + b"(K\x01" + shape + dtype + b"\x89" + text(item.tobytes()) + b"tb"
        if isinstance(item, list):
            return b"](" + b"".join(map(value, item)) + b"e"
        return b"K" + bytes([item]) if isinstance(item, int) else text(item.encode())

    items = b"".join(text(key.encode()) + value(item) for key, item in content.items())
    data = b"\x80\x02}(" + items + b"u."
    pickletools.dis(data, out=io.StringIO())
    return data


def published(name, version):
    """Files of a version with two images each: pixels random, labels 0 and 1, 2 in the test file."""
    rng, files = np.random.default_rng(0), {}
    for file in (*version.train, *version.val):
        pixels = rng.integers(0, 256, (2, 3072)).astype(np.uint8)
        labels = [0, 1] if file in version.train else [2, 2]
        if version.is_binary:
            prefix = [[7] * (version.label_bytes - 1) + [label] for label in labels]
            files[file] = np.concatenate([np.array(prefix, np.uint8), pixels], 1).tobytes()
        else:
            files[file] = python2({"data": pixels, version.labels: labels, "coarse_labels": [9, 9]})
    names = NAMES[name]
    files[version.names] = (
        ("\n".join(names) + "\n\n").encode() if version.is_binary else python2({version.label_names: names})
    )
    return {f"{version.folder}/{file}": data for file, data in files.items()}


def write(root, name, version, form):
    files = published(name, version)
    if form == "folder":
        write_tree(root, files)
    else:
        (root / version.archive).write_bytes(gzip.compress(tar_bytes(files)))
    return files


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_images_labels_and_names_of_each_form(tmp_path, name, binary, form):
    version = VERSIONS[name][binary]
    write(tmp_path, name, version, form)
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET=name)
    train, val = (open_split(config, split) for split in ("train", "val"))
    assert train.labels.tolist() == [0, 1] * len(version.train) and val.labels.tolist() == [2, 2]
    assert train.class_names == tuple(NAMES[name])
    expected = np.random.default_rng(0).integers(0, 256, (len(train) + 2, 3072)).astype(np.uint8)
    for index in range(len(train)):
        pixels = np.asarray(train.open(index).decode())
        np.testing.assert_array_equal(pixels, expected[index].reshape(3, 32, 32).transpose(1, 2, 0))
    data = pickle.dumps(build_dataset(config, "train"))
    assert len(data) < 20_000  # workers read the pixels themselves
    assert int(pickle.loads(data)[Sample(1, 0)]["label"]) == 1
    assert open_unlabeled(config, "val").labels is None


def test_the_folder_itself_is_accepted(tmp_path):
    version = VERSIONS["cifar10"][0]
    write(tmp_path, "cifar10", version, "folder")
    assert (
        len(open_split(tiny_config(tmp_path / version.folder, tmp_path, DATA__DATASET="cifar10"), "val")) == 2
    )


def test_errors(tmp_path):
    config = tiny_config(tmp_path, tmp_path, DATA__DATASET="cifar10")
    with pytest.raises(
        FileNotFoundError, match=r"has no cifar10; expected cifar-10-batches-py/ or cifar-10-python\.tar\.gz"
    ):
        open_split(config, "train")
    python, binary = VERSIONS["cifar10"]
    write(tmp_path, "cifar10", python, "folder")
    with pytest.raises(ValueError, match=r"cifar10 has 3 classes for MODEL\.NUM_CLASSES=10"):
        open_split(tiny_config(tmp_path, tmp_path, DATA__DATASET="cifar10", MODEL__NUM_CLASSES=10), "train")
    write(tmp_path, "cifar10", binary, "folder")
    with pytest.raises(
        ValueError, match="cifar-10-batches-py and cifar-10-batches-bin, two versions of cifar10"
    ):
        open_split(config, "train")


def test_damaged_files(tmp_path):
    python, binary = VERSIONS["cifar10"]
    for number, (version, damage, message) in enumerate(
        [
            (python, lambda data: data[:-500], r"data_batch_3 is damaged: .*download it again"),
            (
                python,
                lambda data: python2({"labels": [0]}),
                r"data_batch_3: expected `data` uint8 \[images, 3072\]",
            ),
            (binary, lambda data: data[:-1], r"data_batch_3\.bin has 6145 bytes, no multiple of 3073"),
        ]
    ):
        root = tmp_path / str(number)
        write(root, "cifar10", version, "folder")
        file = root / version.folder / version.train[2]
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(ValueError, match=message):
            open_split(tiny_config(root, tmp_path, DATA__DATASET="cifar10"), "train")


def test_a_member_that_unpacks_to_more_than_a_data_set(tmp_path, monkeypatch):
    version = VERSIONS["cifar10"][0]
    write(tmp_path, "cifar10", version, "archive")
    monkeypatch.setattr(cifar, "_MAX_BYTES", 5000)
    with pytest.raises(
        ValueError, match=r"is damaged or incomplete: .*data_batch_1 is not a file or has 6\d+ bytes"
    ):
        open_split(tiny_config(tmp_path, tmp_path, DATA__DATASET="cifar10"), "train")


def test_pickles_run_no_code(tmp_path):
    version = VERSIONS["cifar10"][0]
    write(tmp_path, "cifar10", version, "folder")
    (tmp_path / version.folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    with pytest.raises(ValueError, match="data_batch_1 is damaged: .*os.system"):
        open_split(tiny_config(tmp_path, tmp_path, DATA__DATASET="cifar10"), "train")


def test_a_cut_off_archive(tmp_path):
    version = VERSIONS["cifar10"][0]
    write(tmp_path, "cifar10", version, "archive")
    path = tmp_path / version.archive
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(
        ValueError, match=r"cifar-10-python\.tar\.gz is damaged or incomplete: .*download it again"
    ):
        open_split(tiny_config(tmp_path, tmp_path, DATA__DATASET="cifar10"), "train")
