from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from beit.config import get_config
from beit.data import ade20k
from beit.data.image_mask import (
    IGNORE,
    MaskError,
    MaskReader,
    class_names_and_palette,
    even_palette,
    open_image_masks,
    read_palette,
    write_palette,
)
from beit.data.images import ImageError


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8), mode).save(path)
    return path


def config(root, classes=3, dataset="image_mask", **keys):
    opts = ["DATA.DATA_PATH", str(root), "DATA.DATASET", dataset, "MODEL.NUM_CLASSES", classes]
    return get_config(None, [*opts, *(item for pair in keys.items() for item in pair)])


def pairs(root, folders=("images/train", "masks/train"), names=("b", "a", "c")):
    for name in names:
        save(root / folders[0] / f"{name}.jpg", np.zeros((4, 5, 3)))
        save(root / folders[1] / f"{name}.png", np.zeros((4, 5)))
    return root


def test_images_and_masks_are_paired_by_name(tmp_path):
    (pairs(tmp_path) / "images/train/notes.txt").write_text("not an image")
    save(tmp_path / "images/train/more/d.png", np.zeros((4, 5, 3)))
    save(tmp_path / "masks/train/more/d.png", np.zeros((4, 5)))
    found = open_image_masks(config(tmp_path), "train")
    assert [found.images.name(k) for k in range(len(found.images))] == [
        "images/train/a.jpg",
        "images/train/b.jpg",
        "images/train/c.jpg",
        "images/train/more/d.png",
    ]
    assert found.masks.path(3) == tmp_path / "masks/train/more/d.png"
    assert found.images.class_names is None
    assert len(class_names_and_palette(config(tmp_path))[1]) == 3


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
def test_the_layout_of_ade20k(tmp_path, inside):
    root = tmp_path / inside
    for split in ("training", "validation"):
        pairs(root, (f"images/{split}", f"annotations/{split}"), (f"ADE_{split}_1",))
    found = open_image_masks(config(tmp_path, 150, "ade20k"), "val")
    assert found.images.path(0) == root / "images/validation/ADE_validation_1.jpg"
    assert found.images.class_names == ade20k.CLASS_NAMES
    assert class_names_and_palette(config(tmp_path, 150, "ade20k"))[1] == ade20k.PALETTE


def test_names_and_colors_of_ade20k():
    assert len(set(ade20k.CLASS_NAMES)) == len(ade20k.PALETTE) == 150
    assert (ade20k.CLASS_NAMES[0], ade20k.PALETTE[0]) == ("wall", (120, 120, 120))
    assert (ade20k.CLASS_NAMES[2], ade20k.PALETTE[2]) == ("sky", (6, 230, 230))
    assert (ade20k.CLASS_NAMES[12], ade20k.PALETTE[12]) == ("person", (150, 5, 61))
    assert (ade20k.CLASS_NAMES[149], ade20k.PALETTE[149]) == ("flag", (92, 0, 255))


def test_class_names_and_colors_from_files(tmp_path):
    (tmp_path / "class_names.txt").write_text("road\ncar\nsky\n")
    (tmp_path / "palette.txt").write_text("1 2 3\n\n4, 5, 6\n7 8 9\n")
    names, palette = class_names_and_palette(config(tmp_path))
    assert names == ("road", "car", "sky") and palette == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    write_palette(tmp_path / "again.txt", palette)
    assert read_palette(tmp_path / "again.txt", 3) == palette
    assert class_names_and_palette(config(tmp_path), tmp_path / "elsewhere")[0] is None
    assert len(set(even_palette(100))) == 100

    (tmp_path / "class_names.txt").write_text("road\ncar\ncar\n")
    with pytest.raises(ValueError, match="names two classes 'car'"):
        class_names_and_palette(config(tmp_path))
    for line in ("1 2 \u00b2", "1 2 " + "9" * 5000, "1 2 3\u20284 5 6"):
        (tmp_path / "palette.txt").write_text(f"1 2 3\n{line}\n", encoding="utf-8")
        with pytest.raises(ValueError, match=r"palette.txt line 2: .*expected three numbers from 0 to 255"):
            read_palette(tmp_path / "palette.txt", 2)
    (tmp_path / "palette.txt").write_bytes(b"1 2 3\n\xff\xfe\n")
    with pytest.raises(ValueError, match=r"palette.txt:2: not UTF-8"):
        read_palette(tmp_path / "palette.txt", 2)
    (tmp_path / "palette.txt").write_text("1 2 3\n1 2 256\n")
    with pytest.raises(ValueError, match="line 2: '1 2 256'"):
        read_palette(tmp_path / "palette.txt", 2)
    (tmp_path / "palette.txt").write_text("1 2 3\n")
    with pytest.raises(ValueError, match="1 colors for MODEL.NUM_CLASSES=2"):
        read_palette(tmp_path / "palette.txt", 2)


@pytest.mark.parametrize("mode", ["L", "P", "1", "I;16"])
def test_masks_of_all_one_channel_modes(tmp_path, mode):
    values = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([9, 9, 9, 200, 0, 0])
    if mode == "1":
        image = Image.fromarray(values * 255).convert("1")
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16))
    image.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        assert saved.mode == mode
    np.testing.assert_array_equal(MaskReader(2)(tmp_path / "mask.png", (2, 2)), values)


def test_zero_and_ignored_labels(tmp_path):
    path = save(tmp_path / "mask.png", [[0, 1, 3, 255]])
    read = MaskReader(3, reduce_zero_label=True)(path, (4, 1))
    np.testing.assert_array_equal(read, [[IGNORE, 0, 2, IGNORE]])
    assert read.dtype == np.uint8
    path = save(tmp_path / "mask.png", [[0, 1, 2, 7]])
    np.testing.assert_array_equal(MaskReader(3, ignore_label=7)(path, (4, 1)), [[0, 1, 2, IGNORE]])


def test_classes_in_another_order(tmp_path):
    path = save(tmp_path / "mask.png", [[0, 1, 2, 255]])
    read = MaskReader(3, order=(2, 0, 1))(path, (4, 1))
    np.testing.assert_array_equal(read, [[2, 0, 1, IGNORE]])


def test_errors_of_wrong_masks_name_file_and_cause(tmp_path):
    path = save(tmp_path / "mask.png", [[0, 3, 150, 150]])
    with pytest.raises(
        MaskError, match=r"mask.png: value 3, 150 in 3 pixels; MODEL.NUM_CLASSES=3 allows 0 to 2"
    ):
        MaskReader(3)(path, (4, 1))
    with pytest.raises(MaskError, match="REDUCE_ZERO_LABEL True"):
        MaskReader(3)(path, (4, 1))
    with pytest.raises(MaskError, match="allows 1 to 3, and 255"):
        MaskReader(3, reduce_zero_label=True)(path, (4, 1))
    with pytest.raises(MaskError, match="4 x 1 pixels, its image has 5 x 1"):
        MaskReader(200)(path, (5, 1))
    path = save(tmp_path / "rgb.png", np.zeros((2, 2, 3)))
    with pytest.raises(MaskError, match="rgb.png: an image of mode RGB, expected one channel"):
        MaskReader(3)(path, (2, 2))
    with pytest.raises(ImageError, match="no such file"):
        MaskReader(3)(tmp_path / "none.png", (2, 2))
    error = pickle.loads(pickle.dumps(MaskError("a.png", "why")))
    assert (str(error), error.path) == ("a.png: why", "a.png")


def test_missing_folders_masks_and_images(tmp_path):
    with pytest.raises(ValueError, match="DATASET=folder has no masks"):
        open_image_masks(config(tmp_path, dataset="folder"), "train")
    with pytest.raises(FileNotFoundError, match="images/train is not a folder. Two layouts"):
        open_image_masks(config(tmp_path), "train")
    pairs(tmp_path)
    for name in "ab":
        (tmp_path / f"masks/train/{name}.png").unlink()
    with pytest.raises(FileNotFoundError, match="2 of 3 images in .* have no mask .*: a, b"):
        open_image_masks(config(tmp_path), "train")
    for folder in ("images/val", "masks/val"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ValueError, match="has no images"):
        open_image_masks(config(tmp_path), "val")
