"""Parquet files of the Hugging Face hub: columns, splits, row groups, damage."""

from __future__ import annotations

import json
import pickle
import sys

import numpy as np
import pytest

from beit.data.dataset import build_dataset
from beit.data.images import ImageError
from beit.data.parquet import ParquetImages
from beit.data.sampler import Sample
from beit.data.splits import open_split, open_unlabeled
from tests.data.packed import gray, png
from tests.tiny import tiny_config

arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (extra: parquet)")
parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow (extra: parquet)")

NAMES = ["cat", "dog", "fox"]


def write(path, values, labels, *, group=2, features=True, image="image", label="label", **columns):
    """A file as `datasets` writes it; the gray values of its images and their labels."""
    data = {
        image: [{"bytes": None if value is None else png(value), "path": "x.png"} for value in values],
        label: labels,
        **columns,
    }
    table = arrow.table(data)
    if features:
        kinds = {image: {"_type": "Image"}, label: {"names": NAMES, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, row_group_size=group)
    return path


def config_of(root, **keys):
    return tiny_config(root, root, DATA__DATASET="parquet", **keys)


def test_rows_of_all_files_in_any_order_also_in_workers(tmp_path):
    write(tmp_path / "data/train-00000-of-00002.parquet", range(5), [0, 1, 2, 0, 1])
    write(tmp_path / "data/train-00001-of-00002.parquet", range(5, 8), [2, 2, 0], group=3)
    write(tmp_path / "data/validation-00000-of-00001.parquet", [9], [1])
    write(tmp_path / "data/test-00000-of-00001.parquet", [10], [-1])
    images = open_split(config_of(tmp_path), "train")
    assert images.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 0] and images.class_names == tuple(NAMES)
    assert images.name(6) == "data/train-00001-of-00002.parquet/1"
    assert images.notes == ()
    data = pickle.loads(pickle.dumps(build_dataset(config_of(tmp_path), "train")))
    order = np.random.default_rng(0).permutation(8).tolist()
    assert [gray(data.images.open(index).decode()) for index in order] == order
    assert [int(data[Sample(index, 0)]["label"]) for index in order] == images.labels[order].tolist()
    val = open_split(config_of(tmp_path), "val")
    assert (len(val), val.labels.tolist(), val.notes) == (1, [1], ())
    assert open_unlabeled(config_of(tmp_path), "train").labels is None


def test_columns_without_the_metadata_of_datasets(tmp_path):
    path = tmp_path / "train.parquet"
    parquet.write_table(arrow.table({"image": [png(7)], "label": arrow.array([2], "int16")}), path)
    images = open_split(config_of(tmp_path), "train")
    assert gray(images.open(0).decode()) == 7 and images.class_names is None and images.labels.tolist() == [2]


def test_columns_of_other_names(tmp_path):
    write(tmp_path / "train.parquet", [7], [2], image="img", label="fine")
    images = open_split(config_of(tmp_path), "train")
    assert gray(images.open(0).decode()) == 7 and images.labels.tolist() == [2]


def test_columns_that_cannot_be_chosen(tmp_path):
    path = write(tmp_path / "train.parquet", [7], [2], features=False, image="picture")
    with pytest.raises(
        ValueError, match=r"train\.parquet has no column 'image'; its columns are picture, label"
    ):
        open_split(config_of(tmp_path), "train")
    kinds = {"image": {"_type": "Image"}, "fine": {"_type": "ClassLabel"}, "coarse": {"_type": "ClassLabel"}}
    table = arrow.table({"image": [png(1)], "fine": [0], "coarse": [0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    parquet.write_table(table, path)
    with pytest.raises(
        ValueError, match=r"2 columns that could be the label: fine, coarse; call the one to use"
    ):
        open_split(config_of(tmp_path), "train")
    assert len(open_unlabeled(config_of(tmp_path), "train")) == 1


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        ([0, None], 3, "label has type int64 and 1 empty rows"),
        (["a", "b"], 3, "label has type string and 0 empty rows"),
        ([0, -1], 3, r"train\.parquet/1 has label -1, labels count from 0"),
        ([0, 3], 3, r"train\.parquet/1 has label 3 for MODEL\.NUM_CLASSES=3"),
        (
            [0, 1],
            5,
            r"has 3 classes \(cat, dog, fox\) for MODEL\.NUM_CLASSES=5; say `-opts MODEL\.NUM_CLASSES 3`",
        ),
    ],
)
def test_bad_labels(tmp_path, labels, classes, message):
    write(tmp_path / "train.parquet", [1, 2], labels)
    with pytest.raises(ValueError, match=message):
        open_split(config_of(tmp_path, MODEL__NUM_CLASSES=classes), "train")


def test_a_row_without_bytes_and_a_damaged_image_follow_the_rules_of_bad_images(tmp_path):
    write(tmp_path / "train.parquet", [None, 5], [0, 1])
    bad = tmp_path / "bad_images.txt"
    data = build_dataset(config_of(tmp_path), "train", bad_images=bad)
    assert data[Sample(0, 0)]["index"] == 1
    assert bad.read_text().startswith(f"{tmp_path}/train.parquet/0\tthe row has no image bytes")
    with pytest.raises(
        ImageError, match=r"train\.parquet/0: the row has no image bytes.*image 0 of the list"
    ):
        build_dataset(config_of(tmp_path), "train")[Sample(0, 0)]


def test_files_that_are_cut_off_or_damaged(tmp_path):
    path = write(tmp_path / "train.parquet", range(40), [0] * 40, group=20)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"train\.parquet is not a complete parquet file .*copy it again"):
        open_split(config_of(tmp_path / "."), "train")
    path = write(tmp_path / "other/train.parquet", range(40), [0] * 40, group=20)
    whole = bytearray(path.read_bytes())
    whole[4:24] = b"\xff" * 20  # the header of the first page
    path.write_bytes(whole)
    images = open_unlabeled(config_of(tmp_path / "other"), "train")
    with pytest.raises(ImageError, match=r"train\.parquet/3: row group 0 cannot be read"):
        images.open(3)
    assert gray(images.open(25).decode()) == 25


def test_files_with_other_classes_or_missing_files(tmp_path):
    write(tmp_path / "train-00000-of-00002.parquet", [1], [0])
    with pytest.raises(ValueError, match=r"1 of 2 files train-\*\.parquet are missing, first number 1"):
        open_split(config_of(tmp_path), "train")
    write(tmp_path / "train-00001-of-00002.parquet", [1], [0], features=False)
    with pytest.raises(ValueError, match=r"train-00001-of-00002\.parquet has other columns or class names"):
        open_split(config_of(tmp_path), "train")
    write(tmp_path / "train-00000-of-00001.parquet", [1], [0])
    with pytest.raises(ValueError, match=r"several data sets: train \(1 files\), train \(2 files\)"):
        open_split(config_of(tmp_path), "train")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([1, 2], r"the column image has type int64; expected the bytes of an encoded image"),
        (["a.png", "b.png"], r"the column image has type string; expected the bytes"),
        ([{"path": "a.png"}] * 2, r"the column image has type struct<path: string>; expected the bytes"),
        ([{"bytes": "a.png"}] * 2, r"the column image has type struct<bytes: string>; expected the bytes"),
    ],
)
def test_columns_without_encoded_images(tmp_path, images, message):
    parquet.write_table(arrow.table({"image": images, "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=rf"train\.parquet: {message}"):
        open_split(config_of(tmp_path), "train")


@pytest.mark.parametrize("names", ["abc", {"0": "cat"}, [1, 2, 3], 5])
def test_class_names_that_are_no_list(tmp_path, names):
    kinds = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    table = arrow.table({"image": [png(1)], "label": [0]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": kinds}})})
    parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match=r"train\.parquet: .* name the classes of label by a .*expected a list of texts"
    ):
        open_split(config_of(tmp_path), "train")


def test_a_label_column_that_the_metadata_do_not_describe(tmp_path):
    table = arrow.table({"image": [png(1)], "label": [2]})
    metadata = {"info": {"features": {"image": {"_type": "Image"}, "label": 5}}}
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(metadata)}), tmp_path / "train.parquet"
    )
    images = open_split(config_of(tmp_path), "train")
    assert images.labels.tolist() == [2] and images.class_names is None


def test_labels_beyond_64_bits(tmp_path):
    table = arrow.table({"image": [png(1)], "label": arrow.array([2**64 - 1], "uint64")})
    parquet.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(
        ValueError, match=r"the column label does not hold class numbers: .*18446744073709551615"
    ):
        open_split(config_of(tmp_path), "train")


@pytest.mark.parametrize(("size", "advice"), [(2**20, False), (40 * 2**20, True)])
def test_large_row_groups_are_noted(tmp_path, size, advice):
    data = np.random.default_rng(0).bytes(size)
    table = arrow.table({"image": [data] * 4, "label": [0] * 4})
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=2, use_dictionary=False)
    (note,) = open_split(config_of(tmp_path), "train").notes
    assert "2 row groups of train with 2 images each on average" in note
    assert f"at most {2 * size / 2**20:.1f} MiB)" in note and ("smaller row_group_size" in note) == advice


def test_a_row_group_that_memory_cannot_hold(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", range(9), [0] * 9, group=9)
    monkeypatch.setattr("beit.data.parquet._MAX_BYTES", 500)
    with pytest.raises(ValueError, match=r"train\.parquet: row group 0 has .*smaller row_group_size"):
        open_split(config_of(tmp_path), "train")


def test_neighbors_read_a_row_group_once(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", range(12), [0] * 12, group=4)
    source = open_unlabeled(config_of(tmp_path), "train").source
    assert isinstance(source, ParquetImages)
    groups = []
    original = parquet.ParquetFile.read_row_group

    def counted(self, group, **options):
        groups.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(parquet.ParquetFile, "read_row_group", counted)
    assert [len(source.read(index)) > 0 for index in range(12)] == [True] * 12 and groups == [0, 1, 2]


def test_without_pyarrow_the_message_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "train.parquet", [1], [0])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match=r'pip install "beit-paddle\[parquet\]"'):
        open_split(config_of(tmp_path / "."), "train")
