from __future__ import annotations

import pytest

from beit.data.class_folders import class_folder_names, has_splits, read_class_folders
from tests.data.packed import rows, touch


def test_classes_and_images_are_sorted(tmp_path):
    touch(tmp_path, "dog/2.jpg", "dog/1.JPEG", "cat/x y.png", "cat/deep/z.webp", "Emu/e.TIF")
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
    touch(
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
    touch(tmp_path, "cat/a.jpg", "dog/notes.txt")
    with pytest.raises(ValueError, match=r"dog has no images \(\.apng .*; fill or remove the folder"):
        read_class_folders(tmp_path)


def test_what_is_left_out_is_named(tmp_path):
    touch(tmp_path, "cat/a.jpg", "cat/b.mov", "cat/notes.txt", "cat/c.MOV", "d.jpg")
    notes = read_class_folders(tmp_path).notes
    assert len(notes) == 2
    assert (
        "3 file(s) left out" in notes[0]
        and "2 .mov (cat/" in notes[0]
        and "1 .txt (cat/notes.txt)" in notes[0]
    )
    assert notes[1].endswith("1 image(s) left out, in no class folder: d.jpg")


def test_folders_named_by_numbers_are_sorted_as_numbers(tmp_path):
    touch(tmp_path, *(f"{k}/a.jpg" for k in range(12)))
    images = read_class_folders(tmp_path)
    assert images.class_names == tuple(map(str, range(12)))
    assert dict(rows(images))["10/a.jpg"] == 10
    assert any("sorted as numbers: label 11 is 11" in note for note in images.notes)
    touch(tmp_path, "x/a.jpg")
    assert class_folder_names(tmp_path)[:3] == ("0", "1", "10")


def test_links_neither_repeat_images_nor_change_labels(tmp_path):
    touch(tmp_path, "cat/a.jpg", "dog/b.jpg")
    expected = rows(read_class_folders(tmp_path))
    (tmp_path / "cat/more").symlink_to("../dog")
    (tmp_path / "dog/up").symlink_to("..")
    (tmp_path / "dog/c.jpg").symlink_to("../cat/a.jpg")
    images = read_class_folders(tmp_path)
    assert rows(images) == expected
    assert "3 link(s) not followed" in images.notes[0]
    (tmp_path / "kitty").symlink_to("cat")
    with pytest.raises(ValueError, match="kitty is a link to .*cat, .*: a class twice"):
        read_class_folders(tmp_path)


def test_a_class_may_lack_images_in_validation_only(tmp_path):
    touch(tmp_path, "cat/a.jpg", "dog/notes.txt")
    images = read_class_folders(tmp_path, ("ant", "cat", "dog"), may_lack_images=True)
    assert rows(images) == [("cat/a.jpg", 1)]
    assert any(
        "2 of 3 classes have no image, metrics do not cover them: ant, dog" in note for note in images.notes
    )


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val"), True),
        (("train", "valid", "labels"), True),
        (("train", "test"), True),
        (("train", "test", "validation"), True),
        (("cat", "dog"), False),
        (("bus", "train"), False),
    ],
)
def test_splits_are_told_from_classes(tmp_path, folders, splits):
    touch(tmp_path, *(f"{name}/a.jpg" for name in folders))
    assert has_splits(tmp_path) == splits


def test_folders_that_could_be_splits_or_classes_are_refused(tmp_path):
    touch(tmp_path / "a", "Training/cat/a.jpg", "test/cat/a.jpg")
    with pytest.raises(ValueError, match="look like splits; call them train, val and test"):
        has_splits(tmp_path / "a")
    touch(tmp_path / "b", "train/cat/a.jpg", "labels/a.txt")
    with pytest.raises(ValueError, match="folder train with sub-folders, and labels"):
        has_splits(tmp_path / "b")
    touch(tmp_path / "c", "train/cat/a.jpg", "val/cat/a.jpg", "valid/cat/a.jpg")
    with pytest.raises(ValueError, match="has val and valid, two folders for one split"):
        has_splits(tmp_path / "c")
