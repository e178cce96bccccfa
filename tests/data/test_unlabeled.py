"""Images without labels: layouts, order, held-out images, errors; and labeled layouts read without labels."""

from __future__ import annotations

import pytest

from beit.config import get_config
from beit.data.splits import open_split, open_unlabeled
from beit.data.unlabeled import HOLDOUT, read_flat


def touch(root, *names):
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def names(images):
    return [images.name(index) for index in range(len(images))]


def test_all_images_in_sub_folders_in_a_fixed_order(tmp_path):
    touch(tmp_path, "b.JPG", "a.png", "sub/deep/c.webp", ".hidden/d.png", ".e.png", "notes.txt", "sub/f.jpeg")
    images = read_flat(tmp_path, "train")
    assert names(images) == ["a.png", "b.JPG", "sub/deep/c.webp", "sub/f.jpeg"]
    assert images.labels is None
    assert images.path(2).read_bytes() == b"x"
    assert read_flat(tmp_path, "val") is None


def test_train_and_val_folders(tmp_path):
    touch(tmp_path, "train/x/a.png", "train/b.png", "val/c.png", "outside.png")
    assert names(read_flat(tmp_path, "train")) == ["b.png", "x/a.png"]
    assert names(read_flat(tmp_path, "val")) == ["c.png"]


def test_a_folder_train_without_val(tmp_path):
    touch(tmp_path, "train/a.png")
    assert read_flat(tmp_path, "val") is None


def test_a_list_of_held_out_images(tmp_path):
    touch(tmp_path, "a.png", "sub/b c.png", "d.png")
    (tmp_path / HOLDOUT).write_text("\ufeff./sub/b c.png\r\n\n", encoding="utf-8")
    assert names(read_flat(tmp_path, "train")) == ["a.png", "d.png"]
    assert names(read_flat(tmp_path, "val")) == ["sub/b c.png"]


def test_a_list_with_a_missing_image_is_an_error(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / HOLDOUT).write_text("a.png 3\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match="name no image below .*'a.png 3'; lines are relative paths, without"
    ):
        read_flat(tmp_path, "train")


def test_a_list_of_all_images_is_an_error(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / HOLDOUT).write_text("a.png\n", encoding="utf-8")
    with pytest.raises(ValueError, match="nothing is left to train on"):
        read_flat(tmp_path, "train")


def test_a_list_in_another_encoding_is_an_error(tmp_path):
    touch(tmp_path, "a.png")
    (tmp_path / HOLDOUT).write_bytes("ä.png".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        read_flat(tmp_path, "val")


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no images .*in no sub-folder either"):
        read_flat(tmp_path, "train")


def config_of(root, layout, **extra):
    return get_config(opts=["DATA.DATA_PATH", str(root), "DATA.DATASET", layout, *extra.get("opts", [])])


def test_lists_and_class_folders_are_read_without_their_labels(tmp_path):
    touch(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/cat/c.png")
    (tmp_path / "train_list.txt").write_text("train/dog/b.png 21840\n", encoding="utf-8")
    listed = open_unlabeled(config_of(tmp_path, "imagenet2012"), "train")
    assert (names(listed), listed.labels) == (["train/dog/b.png"], None)
    assert open_unlabeled(config_of(tmp_path, "imagenet2012"), "val") is None
    folders = open_unlabeled(config_of(tmp_path, "folder"), "train")
    assert (names(folders), folders.labels) == (["cat/a.png", "dog/b.png"], None)
    assert names(open_unlabeled(config_of(tmp_path, "folder"), "val")) == ["cat/c.png"]
    assert names(open_unlabeled(config_of(tmp_path, "flat"), "train")) == ["cat/a.png", "dog/b.png"]


def test_a_missing_folder_or_list_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="DATA.DATA_PATH=.*does not exist. The layouts.*flat"):
        open_unlabeled(config_of(tmp_path / "nowhere", "flat"), "train")
    with pytest.raises(FileNotFoundError, match=r"train_list\.txt does not exist"):
        open_unlabeled(config_of(tmp_path, "imagenet2012"), "train")


def test_tasks_with_labels_refuse_the_flat_layout(tmp_path):
    with pytest.raises(ValueError, match="DATA.DATASET = flat has no labels, and TASK: classify needs them"):
        open_split(config_of(tmp_path, "flat"), "train")


def test_lists_and_csv_files_of_any_labels(tmp_path):
    (tmp_path / "train_list.txt").write_text("a.png 1,0\nb.png -\n")
    (tmp_path / "train.csv").write_text("path,cat,dog\na.png,1,0\nb.png,1,1\n")
    for dataset in ("imagenet2012", "csv"):
        config = get_config(
            None, ["DATA.DATA_PATH", str(tmp_path), "DATA.DATASET", dataset, "TASK", "pretrain"]
        )
        images = open_unlabeled(config, "train")
        assert names(images) == ["a.png", "b.png"] and images.labels is None and images.class_names is None
        assert open_unlabeled(config, "val") is None
