from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from beit.data.image_list import ImageList, absent_classes, check_files, pack_offsets, require_files


def test_names_and_paths(tmp_path):
    images = ImageList.from_names(tmp_path, ["a/b c.jpg", "é.png", "x"], [4, 0, 2], ["p", "q"])
    assert [images.name(i) for i in range(len(images))] == ["a/b c.jpg", "é.png", "x"]
    assert images.path(0) == tmp_path / "a/b c.jpg"
    assert images.labels.tolist() == [4, 0, 2] and images.class_names == ("p", "q")


def test_names_that_are_not_utf8(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert ImageList.from_names(tmp_path, [name]).path(0) == tmp_path / name


def test_unlabeled(tmp_path):
    images = ImageList.from_names(tmp_path, ["a"])
    assert images.labels is None and images.class_names is None


def test_classes_that_no_image_has(tmp_path):
    names = ["ant", "bee", "cow", "dog"]
    images = ImageList.from_names(tmp_path, ["a", "b"], [2, 0], names)
    assert absent_classes(images, 4) == ["bee", "dog"]
    assert absent_classes(images, 5) == ["1", "3", "4"]  # names of other classes
    several = np.array([[True, False, True, False], [False, False, False, False]])
    assert absent_classes(replace(images, labels=several), 4) == ["bee", "dog"]
    assert absent_classes(replace(images, labels=None), 4) == []


def test_an_index_beyond_the_list_is_an_error(tmp_path):
    with pytest.raises(IndexError):
        ImageList.from_names(tmp_path, ["a"]).path(1)


def test_offsets_grow_with_the_names():
    assert pack_offsets(np.array([3, 5])).tolist() == [0, 3, 8]
    assert pack_offsets(np.array([2**31, 2**31 - 1])).dtype == np.uint32
    assert pack_offsets(np.array([2**31, 2**31])).dtype == np.uint64


def test_check_files(tmp_path):
    names = [f"{k}.jpg" for k in range(40)]
    for k in set(range(40)) - {7, 8, 39}:
        (tmp_path / names[k]).touch()
    (tmp_path / names[8]).mkdir()  # a folder is not an image
    images = ImageList.from_names(tmp_path, names)
    assert check_files(images, None) == [tmp_path / names[k] for k in (7, 8, 39)]
    assert check_files(images) == [tmp_path / names[k] for k in (7, 8, 39)]
    assert check_files(images, 2) == [tmp_path / "39.jpg"]  # checks the first and the last


def test_fingerprint_depends_on_names_labels_and_order_only(tmp_path):
    one = ImageList.from_names(tmp_path, ["ab", "c"], [0, 1])
    assert one.fingerprint() == ImageList.from_names(tmp_path / "moved", ["ab", "c"], [0, 1]).fingerprint()
    others = [(["c", "ab"], [0, 1]), (["ab", "c"], [1, 0]), (["a", "bc"], [0, 1]), (["ab", "c"], None)]
    prints = {ImageList.from_names(tmp_path, *other).fingerprint() for other in others}
    assert len(prints | {one.fingerprint()}) == 5


def test_overlap(tmp_path):
    one = ImageList.from_names(tmp_path, ["a", "b", "c", "c"])
    assert one.overlap(ImageList.from_names(tmp_path, ["b", "c", "d"])) == 2
    assert one.overlap(ImageList.from_names(tmp_path, ["ab", "d"])) == 0
    assert one.overlap(ImageList.from_names(tmp_path / "other", ["a", "b"])) == 0


def test_require_files(tmp_path):
    for k in range(10):
        (tmp_path / f"{k}.jpg").touch()
    images = ImageList.from_names(tmp_path, [f"{k}.jpg" for k in range(12)])
    require_files(images, 0.2)
    with pytest.raises(FileNotFoundError, match=r"2 of 12 listed images do not exist, first .*10\.jpg"):
        require_files(images, 0.1)
