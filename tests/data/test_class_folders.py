from __future__ import annotations

import os

import pytest

from beit.data.class_folders import class_folder_names, read_class_folders, write_list_files
from beit.data.list_file import read_class_names, read_list_file


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def rows(images):
    return [(images.name(i), int(label)) for i, label in enumerate(images.labels)]


def test_classes_and_images_are_sorted(tmp_path):
    make(tmp_path, "dog/2.jpg", "dog/1.JPEG", "cat/x y.png", "cat/deep/z.webp", "Emu/e.TIF")
    images = read_class_folders(tmp_path)
    assert images.class_names == ("Emu", "cat", "dog")
    assert rows(images) == [
        ("Emu/e.TIF", 0),
        ("cat/deep/z.webp", 1),
        ("cat/x y.png", 1),
        ("dog/1.JPEG", 2),
        ("dog/2.jpg", 2),
    ]
    assert images.path(0) == tmp_path / "Emu/e.TIF"


def test_hidden_files_and_other_extensions_are_ignored(tmp_path):
    make(
        tmp_path, "cat/a.jpg", "cat/._a.jpg", "cat/Thumbs.db", "cat/.hidden/b.jpg", ".git/c.jpg", "readme.jpg"
    )
    assert rows(read_class_folders(tmp_path)) == [("cat/a.jpg", 0)]


def test_folders_without_classes_or_images_are_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nowhere is not a folder; expected .*nowhere/<class>/<image>"
    ):
        read_class_folders(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="has no class folders; expected .*/<class>/<image>"):
        read_class_folders(tmp_path)
    make(tmp_path, "cat/a.jpg", "dog/notes.txt")
    with pytest.raises(ValueError, match=r"dog has no images \(\.bmp .*; fill or remove the folder"):
        read_class_folders(tmp_path)


def test_written_lists_are_read_back(tmp_path):
    make(tmp_path, "train/cat/a b.jpg", "train/dog/类.jpg", "val/cat/c.jpg", "val/dog/d.jpg")
    written = write_list_files(tmp_path)
    assert [file.name for file in written] == ["train_list.txt", "val_list.txt", "class_names.txt"]
    train = read_list_file(tmp_path / "train_list.txt", tmp_path, 2)
    assert rows(train) == [("train/cat/a b.jpg", 0), ("train/dog/类.jpg", 1)]
    assert all(train.path(i).is_file() for i in range(2))
    assert rows(read_list_file(tmp_path / "val_list.txt", tmp_path, 2))[1] == ("val/dog/d.jpg", 1)
    assert read_class_names(tmp_path / "class_names.txt", 2) == ("cat", "dog")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "class_names.txt",
        "train",
        "train_list.txt",
        "val",
        "val_list.txt",
    ]


def test_existing_list_files_are_kept(tmp_path):
    make(tmp_path, "train/cat/a.jpg", "val/cat/b.jpg")
    (tmp_path / "train_list.txt").write_text("mine 0\n")
    assert [file.name for file in write_list_files(tmp_path)] == ["val_list.txt", "class_names.txt"]
    assert (tmp_path / "train_list.txt").read_text() == "mine 0\n"
    assert write_list_files(tmp_path) == []


def test_read_only_folder_warns(tmp_path, monkeypatch):
    make(tmp_path, "train/cat/a.jpg", "val/cat/b.jpg")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.warns(UserWarning, match="is read-only: no list files written"):
        assert write_list_files(tmp_path) == []
    assert not (tmp_path / "val_list.txt").exists()


@pytest.mark.parametrize("name", ["line\nbreak.jpg", b"caf\xe9.jpg".decode("utf-8", "surrogateescape")])
def test_names_that_a_list_cannot_hold_are_refused(tmp_path, name):
    make(tmp_path, f"train/cat/{name}", "val/cat/b.jpg")
    assert class_folder_names(tmp_path / "train") == ("cat",)
    with pytest.raises(ValueError, match="this name cannot be written in a list file; rename it"):
        write_list_files(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["train", "val"]  # and no incomplete list
