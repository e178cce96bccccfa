"""Stored tables of contents: when they are used, and when they are made again."""

from __future__ import annotations

import os

import numpy as np
import pytest

from beit.data import archives, index_cache, webdataset
from beit.data.index_cache import joined, names_of, remembered
from tests.data.packed import png, write_tar


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of the tables; every archive counts as large."""
    monkeypatch.setenv("BEIT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(index_cache, "_LARGE", 0)
    return tmp_path / "home" / "indexes"


def table(files, made):
    def make():
        made.append(1)
        return {"entries": np.arange(len(made))}

    return remembered(files, "test", make)["entries"].tolist()


def test_a_table_is_made_once_for_files_that_do_not_change(home, tmp_path):
    file, made = write_tar(tmp_path / "a.tar", {"1.png": png(1)}), []
    assert [table([file], made), table([file], made)] == [[0], [0]]
    os.utime(file, ns=(1, 1))
    assert table([file], made) == [0, 1] and len(list(home.glob("*.npz"))) == 2
    file.write_bytes(file.read_bytes() + b"x")
    os.utime(file, ns=(1, 1))
    assert table([file], made) == [0, 1, 2]


def test_a_damaged_table_is_made_again(home, tmp_path):
    file, made = write_tar(tmp_path / "a.tar", {"1.png": png(1)}), []
    table([file], made)
    stored = next(home.glob("*.npz"))
    for data in (b"", b"nothing", stored.read_bytes()[:100]):
        stored.write_bytes(data)
        table([file], made)
    assert len(made) == 4 and table([file], made) == [0, 1, 2, 3]


def test_small_files_and_a_folder_that_cannot_be_written(home, tmp_path, monkeypatch):
    file, made = write_tar(tmp_path / "a.tar", {"1.png": png(1)}), []
    home.parent.write_text("a file where the folder should be")
    assert [table([file], made), table([file], made)] == [[0], [0, 1]]
    home.parent.unlink()
    monkeypatch.setattr(index_cache, "_LARGE", 2**30)
    table([file], made)
    assert not home.exists() and len(made) == 3


def test_archives_and_webdataset_tars_are_scanned_once(home, tmp_path, monkeypatch):
    tar = write_tar(
        tmp_path / "set" / "train.tar", {"a ä.png": png(1), "a ä.cls": b"2", "b.png": png(2), "b.cls": b"0"}
    )
    first = archives.read_archive(tar), webdataset.read_webdataset(tar.parent, "train", 3)
    archives._read_archive.cache_clear()

    def fail(*_, **__):
        raise AssertionError("scanned again")

    monkeypatch.setattr(archives, "scan_tar", fail)
    monkeypatch.setattr(webdataset, "scan_tar", fail)
    again = archives.read_archive(tar), webdataset.read_webdataset(tar.parent, "train", 3)
    assert first[0].names == again[0].names == ("a ä.png", "a ä.cls", "b.png", "b.cls")
    assert first[0].entries.tobytes() == again[0].entries.tobytes()
    assert first[1].fingerprint() == again[1].fingerprint() and again[1].labels.tolist() == [2, 0]
    assert [again[1].read(index) for index in range(2)] == [png(1), png(2)]
    with pytest.raises(ValueError, match="has label 2 for MODEL.NUM_CLASSES=2"):
        webdataset.read_webdataset(tar.parent, "train", 2)
    with pytest.raises(AssertionError, match="scanned again"):
        webdataset.read_webdataset(tar.parent, "train", 3, labeled=False)


@pytest.mark.parametrize("names", [[], ["a"], ["a b", "ä\nx", "\udce9.png"]])
def test_names_are_kept(names):
    assert names_of(joined(names)) == names
