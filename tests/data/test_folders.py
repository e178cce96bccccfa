"""Walks over folders: links, errors, and what is left out."""

from __future__ import annotations

import os

import pytest

from beit.data.folders import walk_files
from tests.data.packed import touch

IMAGES = frozenset({".jpg", ".png"})


def test_files_at_any_depth_are_sorted_and_hidden_ones_ignored(tmp_path):
    touch(tmp_path, "b.JPG", "a/c/d.png", ".e.jpg", ".f/g.jpg", "notes.txt")
    found = walk_files(tmp_path, IMAGES)
    assert found.names == ["a/c/d.png", "b.JPG"] and found.repeated == []
    assert found.left_out == {".txt": (1, "notes.txt")}


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "../sub", "loop"])
def test_a_link_to_the_own_or_a_parent_folder_adds_nothing(tmp_path, target):
    root = touch(tmp_path / "data" / "val", "a.jpg", "sub/b.jpg")
    touch(tmp_path / "data" / "train", "c.jpg")
    if target == "loop":
        (root / "sub/loop").symlink_to("loop2")
        (root / "sub/loop2").symlink_to("..")
    else:
        (root / "sub/loop").symlink_to(target)
    assert walk_files(root, IMAGES).names == ["a.jpg", "sub/b.jpg"]
    assert "sub/loop" in walk_files(root, IMAGES).repeated


def test_links_to_other_places_are_followed_once_and_the_nearest_counts(tmp_path):
    pool = touch(tmp_path / "pool", "cat/a.jpg", "dog/b.jpg")
    root = touch(tmp_path / "data", "own.jpg")
    (root / "also").mkdir()
    (root / "also/pool").symlink_to(pool)
    (root / "cat").symlink_to(pool / "cat")
    found = walk_files(root, IMAGES)
    assert found.names == ["also/pool/dog/b.jpg", "cat/a.jpg", "own.jpg"]
    assert found.repeated == ["also/pool/cat"]


def test_a_linked_root_is_read(tmp_path):
    touch(tmp_path / "real", "a.jpg")
    (tmp_path / "link").symlink_to("real")
    assert walk_files(tmp_path / "link", IMAGES).names == ["a.jpg"]


def test_linked_files_of_the_same_folder_are_left_out(tmp_path):
    outside = touch(tmp_path / "outside", "x.jpg")
    root = touch(tmp_path / "data", "a/1.jpg", "b/2.jpg")
    (root / "b/again.jpg").symlink_to("../a/1.jpg")
    (root / "b/again2.jpg").symlink_to("again.jpg")
    (root / "b/x.jpg").symlink_to(outside / "x.jpg")
    found = walk_files(root, IMAGES)
    assert found.names == ["a/1.jpg", "b/2.jpg", "b/x.jpg"]
    assert found.repeated == ["b/again.jpg", "b/again2.jpg"]


def test_a_broken_image_link_is_found_and_other_broken_links_are_errors(tmp_path):
    root = touch(tmp_path / "data", "a.jpg")
    (root / "b.jpg").symlink_to("nowhere.jpg")
    assert walk_files(root, IMAGES).names == ["a.jpg", "b.jpg"]
    (root / "class").symlink_to("/nowhere")
    with pytest.raises(FileNotFoundError, match="class is a broken link to /nowhere; restore its target"):
        walk_files(root, IMAGES)


@pytest.mark.parametrize("where", ["", "sub"])
def test_an_unreadable_folder_is_an_error(tmp_path, monkeypatch, where):
    root = touch(tmp_path / "data", "a.jpg", "sub/b.jpg")
    scan = os.scandir

    def refuse(path):
        if str(path) == str((root / where).resolve()):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(PermissionError, match=r"data(/sub)? cannot be read: Permission denied. Its images"):
        walk_files(root, IMAGES)
