"""List files from small copies of ImageNet in each form in which it is distributed."""

from __future__ import annotations

import gzip
import io
import sys

import numpy as np
import pytest
from scipy.io import savemat

from beit.data import imagenet_lists
from beit.data.make_lists import make_lists
from beit.data.splits import open_split
from beit.imagenet_classes import synsets
from beit.tools.make_lists import main
from tests.data.packed import png, tar_bytes, write_tar, write_tree, write_zip
from tests.tiny import tiny_config

SYNSETS = ("n01440764", "n01443537", "n01484850")
TRAIN = {
    f"{synset}/{synset}_{number}.JPEG": png(10 * label + number)
    for label, synset in enumerate(SYNSETS)
    for number in (10026, 7)
}
VAL = {f"ILSVRC2012_val_{number:08d}.JPEG": png(100 + number) for number in range(1, 6)}
VAL_LABELS = (2, 0, 1, 1, 2)
IDS = (449, 3, 700)  # ILSVRC2012_ID of each synset; they are not in the order of the synsets
EXPECTED_TRAIN = """\
train/n01440764/n01440764_10026.JPEG 0
train/n01440764/n01440764_7.JPEG 0
train/n01443537/n01443537_10026.JPEG 1
train/n01443537/n01443537_7.JPEG 1
train/n01484850/n01484850_10026.JPEG 2
train/n01484850/n01484850_7.JPEG 2
"""
EXPECTED_VAL = """\
val/ILSVRC2012_val_00000001.JPEG 2
val/ILSVRC2012_val_00000002.JPEG 0
val/ILSVRC2012_val_00000003.JPEG 1
val/ILSVRC2012_val_00000004.JPEG 1
val/ILSVRC2012_val_00000005.JPEG 2
"""
EXPECTED_VAL_FOLDERS = """\
val/n01440764/ILSVRC2012_val_00000002.JPEG 0
val/n01443537/ILSVRC2012_val_00000003.JPEG 1
val/n01443537/ILSVRC2012_val_00000004.JPEG 1
val/n01484850/ILSVRC2012_val_00000001.JPEG 2
val/n01484850/ILSVRC2012_val_00000005.JPEG 2
"""
FILES = {f"train/{name}": data for name, data in TRAIN.items()} | {
    f"val/{name}": data for name, data in VAL.items()
}


def devkit():
    """The files of the development kit: `synsets` with a row of an inner node, and a number for each image."""
    rows = [(*pair, "words", "gloss", 0, [], 0, 0) for pair in zip(IDS, SYNSETS, strict=True)]
    rows.append((1001, "n00001740", "entity", "gloss", 2, [1, 2], 1, 0))
    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    table = np.array([tuple(row) for row in rows], [(field, object) for field in fields])
    meta = io.BytesIO()
    savemat(meta, {"synsets": table[:, None]}, do_compression=True)
    numbers = "".join(f"{IDS[label]}\n" for label in VAL_LABELS).encode()
    return {"data/meta.mat": meta.getvalue(), f"data/{imagenet_lists._GROUND_TRUTH}": numbers}


def solution():
    rows = [
        f"{name[:-5]},{SYNSETS[label]} 85 1 499 272 {SYNSETS[label]} 1 2 3 4 "
        for name, label in zip(VAL, VAL_LABELS, strict=True)
    ]
    return ("ImageId,PredictionString\n" + "\n".join(rows[::-1]) + "\n").encode()


def write_official_tree(root):
    write_tree(root, FILES)
    write_tree(root / "ILSVRC2012_devkit_t12", devkit())


def write_official_tars(root):
    inner = {
        f"{synset}.tar": tar_bytes(
            {name.split("/")[1]: data for name, data in sorted(TRAIN.items()) if synset in name[:9]}
        )
        for synset in SYNSETS
    }
    write_tar(root / "ILSVRC2012_img_train.tar", inner)
    write_tar(root / "ILSVRC2012_img_val.tar", VAL)
    kit = {f"ILSVRC2012_devkit_t12/{name}": data for name, data in devkit().items()}
    (root / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(tar_bytes(kit)))


def kaggle_files():
    images = {f"ILSVRC/Data/CLS-LOC/{name}": data for name, data in FILES.items()}
    test = {"ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG": png(0)}
    return (
        images
        | test
        | {"LOC_val_solution.csv": solution(), "LOC_train_solution.csv": b"ImageId,PredictionString\n"}
    )


def write_kaggle_tree(root):
    write_tree(root, kaggle_files())


def write_kaggle_zip(root):
    write_zip(root / "imagenet-object-localization-challenge.zip", kaggle_files())


def write_class_folders(root):
    write_tree(root, {f"train/{name}": data for name, data in TRAIN.items()})
    names = {
        f"val/{SYNSETS[label]}/{name}": data
        for (name, data), label in zip(VAL.items(), VAL_LABELS, strict=True)
    }
    write_tree(root, names)


def write_mixed(root):
    """The training tar, a validation folder without class folders, and Kaggle's solution."""
    write_official_tars(root)
    (root / "ILSVRC2012_img_val.tar").unlink()
    (root / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    write_tree(
        root, {f"val/{name}": data for name, data in VAL.items()} | {"LOC_val_solution.csv": solution()}
    )


@pytest.mark.parametrize(
    ("write", "below"),
    [
        (write_official_tree, ""),
        (write_official_tars, ""),
        (write_kaggle_tree, "ILSVRC/Data/CLS-LOC"),
        (write_kaggle_zip, ""),
        (write_class_folders, ""),
        (write_mixed, ""),
    ],
)
def test_each_form_gets_the_lists_of_paddlevit_and_is_read_with_them(tmp_path, write, below):
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    lists = make_lists(root)
    folder = root / below
    assert (lists.folder, lists.counts, lists.class_names) == (folder, {"train": 6, "val": 5}, SYNSETS)
    assert (folder / "train_list.txt").read_text() == EXPECTED_TRAIN
    expected = EXPECTED_VAL_FOLDERS if write is write_class_folders else EXPECTED_VAL
    assert (folder / "val_list.txt").read_text() == expected
    assert (folder / "class_names.txt").read_text() == "".join(f"{name}\n" for name in SYNSETS)
    config = tiny_config(folder, tmp_path / "out")
    for split in ("train", "val"):
        images = open_split(config, split)
        for index in range(len(images)):
            folder, _, file = images.name(index).rpartition("/")
            assert images.read(index) == FILES[f"val/{file}" if split == "val" else f"{folder}/{file}"]


def test_kaggles_inner_folder_is_accepted_and_its_test_images_are_noted(tmp_path):
    write_kaggle_tree(tmp_path)
    folder = tmp_path / "ILSVRC/Data/CLS-LOC"
    lists = make_lists(folder)
    assert (folder / "val_list.txt").read_text() == EXPECTED_VAL
    assert any("CLS-LOC/test is in no list" in note for note in lists.notes)


@pytest.mark.parametrize("write", [write_official_tree, write_class_folders])
def test_a_validation_folder_alone_gets_the_labels_of_the_1000_classes(tmp_path, capsys, write):
    write(tmp_path)
    (tmp_path / "train").rename(tmp_path.parent / f"{tmp_path.name}_train")
    main([str(tmp_path)])
    labels = [line.rsplit(" ", 1)[1] for line in (tmp_path / "val_list.txt").read_text().splitlines()]
    names = sorted(VAL_LABELS) if write is write_class_folders else VAL_LABELS
    assert labels == [str(synsets("imagenet-1k").index(SYNSETS[label])) for label in names]
    assert not (tmp_path / "train_list.txt").exists()
    out = capsys.readouterr().out
    assert f"{tmp_path}: 5 validation images of 1000 classes\n" in out
    assert (
        f"evaluate with: -eval -dataset=imagenet2012 -data_path={tmp_path} -opts MODEL.NUM_CLASSES 1000\n"
        in out
    )
    assert len(open_split(tiny_config(tmp_path, tmp_path, MODEL__NUM_CLASSES=1000), "val")) == 5


def test_images_without_ground_truth(tmp_path):
    write_tree(tmp_path, FILES)
    with pytest.raises(
        ValueError, match=r"put ILSVRC2012_devkit_t12\.tar\.gz or Kaggle's LOC_val_solution\.csv into"
    ):
        make_lists(tmp_path)
    write_tree(tmp_path, {"LOC_val_solution.csv": solution().replace(b"00000003", b"00000009")})
    with pytest.raises(
        ValueError, match=r"LOC_val_solution\.csv has no label of 1 images.*: ILSVRC2012_val_00000003\.JPEG"
    ):
        make_lists(tmp_path)


def test_images_that_are_missing_are_noted_and_classes_that_train_lacks_are_an_error(tmp_path):
    write_official_tree(tmp_path)
    (tmp_path / "val" / "ILSVRC2012_val_00000004.JPEG").unlink()
    (tmp_path / "train" / "n01484850").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"images of 1 classes that .*train lacks: n01484850"):
        make_lists(tmp_path)
    (tmp_path / "elsewhere").rename(tmp_path / "train" / "n01484850")
    notes = make_lists(tmp_path).notes
    assert any(
        "1 of 5 images of ILSVRC2012_validation_ground_truth.txt are missing: ILSVRC2012_val_00000004" in n
        for n in notes
    )


def test_damaged_ground_truth(tmp_path, monkeypatch):
    write_tree(
        tmp_path, FILES | {"LOC_val_solution.csv": b"ImageId,PredictionString\nILSVRC2012_val_00000001,cat\n"}
    )
    with pytest.raises(ValueError, match=r"LOC_val_solution\.csv is damaged"):
        make_lists(tmp_path)
    (tmp_path / "LOC_val_solution.csv").unlink()
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    archive.write_bytes(gzip.compress(tar_bytes({"x": b""})))
    with pytest.raises(ValueError, match=r"devkit_t12\.tar\.gz is damaged or incomplete"):
        make_lists(tmp_path)
    archive.unlink()
    kit = write_tree(tmp_path / "ILSVRC2012_devkit_t12", devkit())
    (kit / "data" / "meta.mat").write_bytes(b"no matlab file" * 20)
    with pytest.raises(ValueError, match=r"meta\.mat is damaged"):
        make_lists(tmp_path)
    write_tree(kit, devkit())
    (kit / "data" / imagenet_lists._GROUND_TRUTH).write_bytes(b"449\n5\n")
    with pytest.raises(ValueError, match="has the unknown class 5"):
        make_lists(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ValueError, match="needs scipy: pip install .*or use Kaggle's LOC_val_solution"):
        make_lists(tmp_path)


def test_a_class_folder_with_folders_is_not_a_class(tmp_path):
    write_tree(tmp_path, {f"photos/{name}": data for name, data in TRAIN.items()})
    with pytest.raises(
        ValueError, match=r"one class folder, photos, with folders in it\. .*`make-lists .*photos`"
    ):
        make_lists(tmp_path)


def test_class_folders_in_an_archive_are_split(tmp_path):
    path = write_zip(
        tmp_path / "data" / "flowers.zip", {f"{kind}/{k}.png": png(k) for kind in "ab" for k in range(5)}
    )
    with pytest.raises(
        FileNotFoundError, match=r"flowers\.zip is a file.*into a folder of its own, as train\.zip"
    ):
        make_lists(path)
    path.rename(path.with_name("train.zip"))
    lists = make_lists(path.parent)
    assert (lists.counts, lists.class_names) == ({"train": 8, "val": 2}, ("a", "b"))
    config = tiny_config(path.parent, tmp_path, MODEL__NUM_CLASSES=2)
    both = [open_split(config, split) for split in ("train", "val")]
    names = sorted(images.name(index) for images in both for index in range(len(images)))
    assert names == [f"train/{kind}/{k}.png" for kind in "ab" for k in range(5)]
    assert all(images.read(0) == png(int(images.name(0)[-5])) for images in both)


def test_class_tars_that_are_not_unpacked_are_named(tmp_path):
    write_tar(tmp_path / "train" / "n01440764.tar", VAL)
    write_tree(
        tmp_path, {"LOC_val_solution.csv": solution()} | {f"val/{name}": data for name, data in VAL.items()}
    )
    with pytest.raises(
        ValueError, match=r"has no class folders.*It has n01440764\.tar: unpack each into a folder"
    ):
        make_lists(tmp_path)


def test_training_on_a_tree_without_lists_names_the_command(tmp_path):
    write_official_tree(tmp_path)
    with pytest.raises(
        ValueError, match=r"val has no class folders.*`python -m beit make-lists` makes list files"
    ):
        open_split(tiny_config(tmp_path, tmp_path, DATA__DATASET="folder"), "train")


def test_imagenet_22k_gets_the_labels_of_the_published_heads(tmp_path, monkeypatch):
    order = ("n00004475", "n00005787", "n00006024")
    monkeypatch.setattr(imagenet_lists, "synsets", lambda name: order)
    write_tree(
        tmp_path, {f"{name}/{name}_{k}.JPEG": png(k) for name in (*order, "n00005000") for k in range(5)}
    )
    lists = make_lists(tmp_path)
    assert (lists.class_names, lists.counts) == (order, {"train": 12, "val": 3})
    assert {line.rsplit(" ", 1)[1] for line in (tmp_path / "train_list.txt").read_text().splitlines()} == {
        "0",
        "1",
        "2",
    }
    assert any("no published head has an output for n00005000; left out" in note for note in lists.notes)


def test_the_command_prints_the_folder_of_the_lists(tmp_path, capsys):
    write_kaggle_tree(tmp_path)
    main([str(tmp_path)])
    out = capsys.readouterr().out
    assert f"{tmp_path}/ILSVRC/Data/CLS-LOC: 6 training and 5 validation images of 3 classes\n" in out
    assert f"train with: -dataset=imagenet2012 -data_path={tmp_path}/ILSVRC/Data/CLS-LOC\n" in out
