"""The random split of class folders into list files."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.data.class_folders import read_class_folders
from beit.data.make_lists import make_lists
from beit.data.random_split import take_split
from beit.data.splits import open_split
from tests.tiny import tiny_config


def tree(root, sizes, splits=("",)):
    for split in splits:
        for name, count in sizes.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / split / name / f"{number} a.png")
    return root


def lines(root, split):
    return (root / f"{split}_list.txt").read_text().splitlines()


def test_every_image_is_in_one_split_and_all_classes_have_the_same_share(tmp_path):
    root = tree(tmp_path / "set", {"b": 10, "a": 5, "c": 1})
    assert make_lists(root, val=0.2, seed=1).counts == {"train": 13, "val": 3}
    both = lines(root, "train") + lines(root, "val")
    assert len(set(both)) == 16 and set(both) >= {"a/0 a.png 0", "b/9 a.png 1", "c/0 a.png 2"}
    assert [line[-1] for line in lines(root, "val")] == ["0", "1", "1"]
    assert (root / "class_names.txt").read_text() == "a\nb\nc\n"
    images = open_split(tiny_config(root, tmp_path / "out"), "val")
    assert images.class_names == ("a", "b", "c") and images.path(0).is_file()


def test_the_split_depends_on_the_seed_only(tmp_path):
    first, again, other = (tree(tmp_path / name, {"a": 30, "b": 30}) for name in "xyz")
    for root, seed in ((first, 0), (again, 0), (other, 1)):
        make_lists(root, seed=seed)
    assert lines(first, "val") == lines(again, "val") != lines(other, "val")


def test_an_image_more_or_less_moves_at_most_one_other(tmp_path):
    root = tree(tmp_path / "set", {"a": 23, "b": 30})

    def held_out():
        images = take_split(read_class_folders(root), "val")
        return {images.name(index) for index in range(len(images))}

    before = held_out()
    moves = []
    for number in range(23):
        (root / "a" / f"{number} a.png").rename(tmp_path / "kept.png")
        moves.append(len((held_out() ^ before) - {f"a/{number} a.png"}))
        (tmp_path / "kept.png").rename(root / "a" / f"{number} a.png")
    assert held_out() == before
    # Of 22 images four are held out, of 23 five: where one of the five goes none follows, else the last leaves.
    assert sorted(moves) == [0] * 5 + [1] * 18


def test_folders_train_and_val_are_kept_as_splits(tmp_path):
    root = tree(tmp_path, {"a": 2, "b": 3}, ("train", "val"))
    assert make_lists(root).counts == {"train": 5, "val": 5}
    assert lines(root, "val")[0] == "val/a/0 a.png 0"


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_other_names_of_the_validation_folder(tmp_path, name):
    root = tree(tmp_path, {"a": 2, "b": 3}, ("train", name, "test"))
    lists = make_lists(root)
    assert (lists.counts, lists.class_names) == ({"train": 5, "val": 5}, ("a", "b"))
    assert lines(root, "val")[0] == f"{name}/a/0 a.png 0"
    assert any("test is in no list" in note for note in lists.notes)


def test_train_is_split_where_there_is_only_a_test_folder(tmp_path):
    root = tree(tmp_path, {"a": 5, "b": 5}, ("train", "test"))
    assert make_lists(root).counts == {"train": 8, "val": 2}
    assert all(line.startswith("train/") for line in lines(root, "train") + lines(root, "val"))


def test_a_class_without_validation_images(tmp_path):
    root = tree(tmp_path, {"a": 2, "b": 3}, ("train",))
    tree(tmp_path, {"b": 1}, ("val",))
    lists = make_lists(root)
    assert lists.class_names == ("a", "b") and lines(root, "val") == ["val/b/0 a.png 1"]
    assert any("1 of 2 classes have no image" in note and note.endswith(": a") for note in lists.notes)


def test_an_unreadable_name_leaves_no_list_behind(tmp_path):
    root = tree(tmp_path, {"a": 2}, ("train", "val"))
    (root / "val/a" / b"caf\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written in a list file; rename it"):
        make_lists(root)
    assert sorted(entry.name for entry in root.iterdir()) == ["train", "val"]


def test_a_full_disk_leaves_no_list_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    root = tree(tmp_path, {"a": 2, "b": 2})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr("beit.data.make_lists.write_text", full)
        make_lists(root)
    assert sorted(entry.name for entry in root.iterdir()) == ["a", "b"]
    assert make_lists(root).counts == {"train": 2, "val": 2}


def test_errors(tmp_path):
    root = tree(tmp_path / "set", {"a": 2})
    (root / "class_names.txt").write_text("mine\n")
    with pytest.raises(FileExistsError, match="already has class_names.txt"):
        make_lists(root)
    assert (root / "class_names.txt").read_text() == "mine\n" and not (root / "val_list.txt").exists()
    (root / "class_names.txt").unlink()
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        make_lists(root, val=1.0)
    (root / "a" / "line\nbreak.png").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be written in a list file"):
        make_lists(root)
    (root / "a" / "line\nbreak.png").unlink()
    (root / "empty").mkdir()
    with pytest.raises(ValueError, match="empty has no images"):
        make_lists(root)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        make_lists(tmp_path / "absent")
