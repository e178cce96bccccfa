"""Classes without pixels and ignored pixels are found before training."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.data.check import check_split
from beit.data.image_mask import MaskError
from beit.data.mask_counts import require_classes
from beit.data.segmentation import build_segmentation_dataset
from tests.tiny import SEGMENT, tiny_config


def dataset(root, masks, classes=2, exif=None, size=(6, 4), **keys):
    """Images of `size` with these label maps."""
    for part in ("images/train", "masks/train"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for k, mask in enumerate(masks):
        image = Image.new("RGB", size)
        if exif:
            image.getexif()[0x0112] = exif
        image.save(root / f"images/train/{k}.jpg", exif=image.getexif())
        Image.fromarray(np.array(mask, np.uint8)).save(root / f"masks/train/{k}.png")
    config = tiny_config(root, root / "out", **SEGMENT | {"MODEL__NUM_CLASSES": classes} | keys)
    return build_segmentation_dataset(config, "train")


def full(value, size=(6, 4)):
    return np.full(size[::-1], value)


def check(data):
    return check_split("train", data, None, 1, workers=0)


def test_all_classes_occur(tmp_path):
    data = dataset(tmp_path, [full(0), full(1)])
    require_classes(data)
    report = check(data)
    assert report.problems == [] and "0.00 % of the pixels of the masks are ignored" in report.remarks


@pytest.mark.parametrize(
    ("values", "keys", "match"),
    [
        (
            (0, 0),
            {},
            r"1 of 2 classes have no pixel in the masks: 1; values 0 to 1 are classes and 255 is ignored",
        ),
        ((0, 255), {}, r"classes have no pixel .*: 1; the masks hold 0 and 255 only, .*value // 255"),
        ((255, 255), {}, "every pixel of the masks is ignored"),
        ((0, 1), {"DATA__REDUCE_ZERO_LABEL": True}, "value 0 is ignored and value v is class v - 1"),
    ],
)
def test_absent_classes_are_refused(tmp_path, values, keys, match):
    data = dataset(tmp_path, [full(value) for value in values], **keys)
    with pytest.raises(ValueError, match=f"{match}.*DATA.ALLOW_ABSENT_CLASSES True"):
        require_classes(data)
    assert len(check(data).problems) == 1


def test_every_mask_is_opened(tmp_path):
    data = dataset(tmp_path, [full(0), full(1), full(7), full(0, (5, 4)), np.zeros((4, 6, 3))])
    with (tmp_path / "masks/train/0.png").open("r+b") as file:
        file.truncate(45)
    problems = check(data).problems
    for part in (
        "0.png: ",
        "2.png: value 7 in 24 pixels",
        "3.png: 5 x 4 pixels",
        "4.png: an image of mode RGB",
    ):
        assert sum(part in problem for problem in problems) == 1
    assert "1 of 2 classes have no pixel" in problems[-1]
    assert "2.png" not in problems[-1]


def test_image_and_mask_are_turned_alike(tmp_path):
    stored = dataset(tmp_path / "stored", [full(0), full(1)], exif=6, DATA__EXIF_ORIENTATION=False)
    report = check(stored)
    assert report.problems == []
    assert any(
        "2 of 2 images have an EXIF orientation, by which they are not turned" in r for r in report.remarks
    )
    assert any("masks must be drawn alike" in remark for remark in report.remarks)
    masks = [full(0, (4, 6)), full(1, (4, 6))]
    shown = dataset(tmp_path / "shown", masks, exif=6, DATA__EXIF_ORIENTATION=False)
    with pytest.raises(MaskError, match="DATA.EXIF_ORIENTATION True makes the two alike"):
        shown.read(0, 0)
    turned = dataset(tmp_path / "shown", [full(0, (4, 6))] * 2, exif=6)
    assert turned.read(0, 0)["image"].shape == (3, 32, 32)


def test_a_mask_with_an_own_tag_is_turned_by_it(tmp_path):
    data = dataset(tmp_path, [full(0), full(1)], exif=6, DATA__EXIF_ORIENTATION=True)
    for k in range(2):
        with Image.open(tmp_path / f"masks/train/{k}.png") as image:
            image.load()
        image.getexif()[0x0112] = 6
        image.save(tmp_path / f"masks/train/{k}.png", exif=image.getexif())
    assert check(data).problems == []
