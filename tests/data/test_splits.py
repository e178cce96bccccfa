from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from beit.data.make_lists import make_lists
from beit.data.splits import open_split
from tests.data.packed import touch


def config(root, dataset="imagenet2012", num_classes=2):
    data = SimpleNamespace(DATASET=dataset, DATA_PATH=str(root))
    return SimpleNamespace(
        TASK="classify",
        DATA=data,
        MODEL=SimpleNamespace(NUM_CLASSES=num_classes),
        TEST=SimpleNamespace(CLASS_SUBSET=False),
    )


def test_list_files(tmp_path):
    (tmp_path / "train_list.txt").write_text("train/a.jpg 0\ntrain/b.jpg 1\n")
    (tmp_path / "val_list.txt").write_text("val/c.jpg 1\n")
    assert open_split(config(tmp_path), "train").labels.tolist() == [0, 1]
    val = open_split(config(tmp_path), "val")
    assert val.path(0) == tmp_path / "val/c.jpg" and val.class_names is None
    (tmp_path / "class_names.txt").write_text("cat\ndog\n")
    assert open_split(config(tmp_path), "val").class_names == ("cat", "dog")


def test_class_folders(tmp_path):
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/dog/d.jpg")
    val = open_split(config(tmp_path, "folder"), "val")
    assert val.path(1) == tmp_path / "val/dog/d.jpg"
    assert val.labels.tolist() == [0, 1] and val.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_names_of_the_validation_folder(tmp_path, name):
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", f"{name}/dog/d.jpg", "test/cat/e.jpg")
    val = open_split(config(tmp_path, "folder"), "val")
    assert val.path(0) == tmp_path / name / "dog/d.jpg" and val.labels.tolist() == [1]
    assert "1 of 2 classes have no image, metrics do not cover them: cat" in val.notes[0]


def test_a_test_folder_is_not_used(tmp_path):
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg", "test/dog/d.jpg")
    with pytest.raises(
        FileNotFoundError, match="test/ is not used in a run: `python -m beit make-lists .*` holds out"
    ):
        open_split(config(tmp_path, "folder"), "val")


def test_without_validation_images_the_command_that_holds_some_out_is_named(tmp_path):
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg")
    hint = f"is not a folder. `python -m beit make-lists {tmp_path}` holds out a part of train/. The layouts"
    with pytest.raises(FileNotFoundError, match=re.escape(hint)):
        open_split(config(tmp_path, "folder"), "val")


def test_a_folder_of_images_without_classes_is_named(tmp_path):
    touch(tmp_path, "a.jpg", "b.jpg")
    with pytest.raises(
        FileNotFoundError, match=f"has no class folders; expected {tmp_path}/<class>/<image>. The"
    ):
        open_split(config(tmp_path, "folder"), "train")


def test_lists_that_class_folders_have_but_do_not_need_are_named(tmp_path):
    touch(tmp_path, *(f"{name}/{k}.jpg" for name in ("cat", "dog") for k in range(5)))
    assert len(open_split(config(tmp_path, "folder"), "train").notes) == 1
    make_lists(tmp_path, val=0.4)
    notes = open_split(config(tmp_path, "folder"), "train").notes
    assert notes[-1].endswith("train_list.txt is not read; `-dataset=imagenet2012` reads the lists")


def test_evaluation_without_training_images(tmp_path):
    touch(tmp_path, "val/cat/c.jpg", "val/dog/d.jpg")
    assert len(open_split(config(tmp_path, "folder"), "val")) == 2


def test_splits_must_have_the_same_classes(tmp_path):
    touch(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "val/cat/c.jpg", "val/emu/d.jpg")
    with pytest.raises(ValueError, match=r"different classes \(only in val: emu; only in train: dog\)"):
        open_split(config(tmp_path, "folder"), "val")


def test_number_of_class_folders(tmp_path):
    touch(tmp_path, "train/cat/a.jpg", "val/cat/c.jpg")
    with pytest.raises(
        ValueError, match="has 1 class folders for MODEL.NUM_CLASSES=2; say `-opts MODEL.NUM_CLASSES 1`"
    ):
        open_split(config(tmp_path, "folder"), "train")


@pytest.mark.parametrize("dataset", ["imagenet2012", "folder"])
def test_missing_data_names_both_layouts(tmp_path, dataset):
    layouts = "The layouts: .*train_list.txt.*train/<class>/<image>.*, or <class>/<image>"
    with pytest.raises(FileNotFoundError, match=f"DATA.DATA_PATH=.*nowhere does not exist. {layouts}"):
        open_split(config(tmp_path / "nowhere", dataset), "train")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=f"file is a file, not a folder. {layouts}"):
        open_split(config(tmp_path / "file", dataset), "train")
    missing = {
        "imagenet2012": "train_list.txt does not exist",
        "folder": "has no class folders; expected .*/<class>/<image>",
    }[dataset]
    with pytest.raises(FileNotFoundError, match=f"{missing}. {layouts}"):
        open_split(config(tmp_path, dataset), "train")
    (tmp_path / "train_list.txt").mkdir()
    if dataset == "imagenet2012":
        with pytest.raises(FileNotFoundError, match=f"train_list.txt is a folder. {layouts}"):
            open_split(config(tmp_path), "train")


def test_class_folders_without_lists_name_the_flag_that_reads_them(tmp_path):
    touch(tmp_path, "cat/a.jpg", "塔/b.jpg")
    with pytest.raises(FileNotFoundError, match="folders cat, 塔 are the classes, .*say `-dataset folder`"):
        open_split(config(tmp_path), "train")
