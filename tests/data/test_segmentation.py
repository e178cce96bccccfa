from __future__ import annotations

import colorsys
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from beit.config import get_config
from beit.data.image_mask import IGNORE, MaskError
from beit.data.images import ImageError
from beit.data.loader import Loader
from beit.data.sampler import Sample
from beit.data.scenes import draw_scene, write_scenes
from beit.data.segmentation import (
    SegmentEvalTransform,
    SegmentTrainTransform,
    build_segmentation_dataset,
    choose_crop,
    covering_size,
    distort,
    fitting_size,
    resize_bilinear,
    resize_labels,
)


def bilinear_pixel(pixels, size, y, x):
    """One pixel of a resized image by definition: two neighbors per axis, half-pixel centers, edges repeated."""
    value = 0.0
    neighbors = []
    for index, length, target in ((y, pixels.shape[0], size[0]), (x, pixels.shape[1], size[1])):
        position = min(max((index + 0.5) * length / target - 0.5, 0), length - 1)
        low = math.floor(position)
        neighbors.append([(low, 1 - position + low), (min(low + 1, length - 1), position - low)])
    for row, a in neighbors[0]:
        for column, b in neighbors[1]:
            value = value + a * b * pixels[row, column].astype(float)
    return value


@pytest.mark.parametrize("size", [(20, 30), (5, 4), (9, 13), (30, 6)])
def test_resize_takes_two_neighbors_per_axis(size):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    got = resize_bilinear(pixels, size)
    expected = np.array(
        [[bilinear_pixel(pixels, size, y, x) for x in range(size[1])] for y in range(size[0])]
    )
    assert got.dtype == np.uint8
    assert np.abs(got - expected).max() <= 0.501
    box = (1, 0, 4, 3)
    np.testing.assert_array_equal(resize_bilinear(pixels, size, box), got[1:4, 0:3])


def test_sizes():
    # mmcv's rescale_size: a 683 x 512 image within (2048, 512), and one whose longer side is the limit.
    assert fitting_size((512, 683), (2048, 512)) == (512, 683)
    assert fitting_size((300, 400), (2048, 512)) == (512, 683)
    assert fitting_size((400, 300), (512, 2048)) == (683, 512)
    assert fitting_size((100, 1000), (2048, 512)) == (205, 2048)
    assert covering_size((100, 1000), 512) == (512, 5120)
    assert covering_size((3, 2), 10) == (15, 10)


def test_labels_take_the_pixel_under_their_center():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rows, columns = ((np.arange(n) + 0.5) * k / n for n, k in ((7, 3), (9, 4)))
    expected = labels[rows.astype(int)[:, None], columns.astype(int)[None]]
    np.testing.assert_array_equal(resize_labels(labels, (7, 9)), expected)


def test_crops_dominated_by_one_class_are_drawn_again():
    labels = np.zeros((40, 200), np.uint8)
    labels[:, 150:] = 1
    labels[:5] = IGNORE
    rng = np.random.default_rng(0)

    def largest_share(box):
        counts = np.bincount(labels[box[0] : box[2], box[1] : box[3]].ravel(), minlength=256)[:255]
        return counts.max() / counts.sum()

    plain = [largest_share(choose_crop(labels, (32, 32), 1.0, rng)) for _ in range(100)]
    chosen = [largest_share(choose_crop(labels, (32, 32), 0.75, rng)) for _ in range(100)]
    share = np.mean(np.array(plain) < 0.75)
    assert 0.02 < share < 0.3
    assert np.mean(np.array(chosen) < 0.75) > 1 - (1 - share) ** 11 - 0.15
    assert choose_crop(labels[:20, :30], (32, 32), 0.75, rng) == (0, 0, 20, 30)


def test_photometric_distortion_follows_its_definition():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 3), dtype=np.uint8)

    class Script:
        """A generator that returns given numbers."""

        def __init__(self, randoms, uniforms, integer=0):
            self.randoms, self.uniforms, self.integer = list(randoms), list(uniforms), integer

        def random(self):
            return self.randoms.pop(0)

        def uniform(self, low, high):
            value = self.uniforms.pop(0)
            assert low <= value <= high
            return value

        def integers(self, low, high):
            assert (low, high) == (-18, 18)
            return self.integer

    def clipped(values):
        return np.clip(values, 0, 255).astype(np.uint8)

    # Draws: brightness?, contrast first?, contrast?, saturation?, hue?
    np.testing.assert_array_equal(distort(pixels, Script([0.9] * 5, [])), pixels)
    bright = distort(pixels, Script([0.1, 0.9, 0.9, 0.9, 0.9], [20.0]))
    np.testing.assert_array_equal(bright, clipped(pixels.astype(float) + 20))
    for first in (0.1, 0.9):
        contrast = distort(pixels, Script([0.9, first, 0.1, 0.9, 0.9], [1.5]))
        np.testing.assert_array_equal(contrast, clipped(pixels * 1.5))
    gray = distort(pixels, Script([0.9, 0.9, 0.9, 0.1, 0.9], [0.5]))
    spread = lambda p: (p.max(-1).astype(int) - p.min(-1)).sum()  # noqa: E731
    assert spread(gray) == pytest.approx(0.5 * spread(pixels), rel=0.05)
    turned = distort(pixels, Script([0.9, 0.9, 0.9, 0.9, 0.1], [], integer=15))  # 30 degrees
    for before, after in zip(pixels.reshape(-1, 3), turned.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(before / 255))
        expected = np.array(colorsys.hsv_to_rgb((h + 15 / 180) % 1, s, v)) * 255
        np.testing.assert_allclose(after, expected, atol=12)


def scene(seed=0):
    image, labels = draw_scene(np.random.default_rng(seed))
    return image, np.array(labels)


def test_train_transform_crops_flips_and_pads_image_and_labels_together():
    # The red channel of the image is its label map, so both must agree after all geometric operations.
    labels = np.kron(np.random.default_rng(0).integers(0, 5, (6, 8)), np.ones((10, 10))).astype(np.uint8)
    image = Image.fromarray(np.repeat(50 * labels[..., None], 3, axis=2))
    transform = SegmentTrainTransform((48, 64), limits=(80, 60), ratio=(0.5, 2.0), photometric=False)
    sizes, agreement = set(), []
    for seed in range(20):
        sample = transform(image, labels, np.random.default_rng(seed))
        assert sample["image"].shape == (3, 48, 64) and sample["label"].shape == (48, 64)
        top, left, height, width = sample["box"]
        assert (top, left) == (0, 0)
        inside = np.zeros((48, 64), bool)
        inside[:height, :width] = True
        assert (sample["label"][~inside] == IGNORE).all() and (sample["image"][:, ~inside] == 0).all()
        agreement.append(np.mean(np.abs(sample["image"][0][inside] / 50 - sample["label"][inside]) < 0.5))
        sizes.add((int(height), int(width)))
    assert np.mean(agreement) > 0.9  # everywhere but at the borders of blocks
    assert len(sizes) > 2 and (48, 64) in sizes


def test_train_transform_keys():
    image, labels = scene()
    base = {"limits": (128, 96), "ratio": (1.0, 1.0), "cat_max_ratio": 1.0, "photometric": False}
    plain = SegmentTrainTransform((96, 128), hflip=0.0, **base)(image, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(plain["image"], np.asarray(image).transpose(2, 0, 1))
    np.testing.assert_array_equal(plain["label"], labels)
    mirrored = SegmentTrainTransform((96, 128), hflip=1.0, **base)(image, labels, np.random.default_rng(0))
    np.testing.assert_array_equal(mirrored["image"], plain["image"][:, :, ::-1])
    np.testing.assert_array_equal(mirrored["label"], labels[:, ::-1])
    colored = SegmentTrainTransform((96, 128), hflip=0.0, **{**base, "photometric": True})
    changed = [colored(image, labels, np.random.default_rng(s))["image"] for s in range(5)]
    assert any((c != plain["image"]).any() for c in changed)


def test_eval_transform_keeps_labels_and_returns_one_image_per_scale():
    image, labels = scene()
    one = SegmentEvalTransform((128, 48))(image, labels)
    assert set(one) == {"image_0", "label"} and one["image_0"].shape == (3, 48, 64)
    np.testing.assert_array_equal(one["label"], labels)
    # Several scales: the shorter side is never below the window, the longer has no limit.
    several = SegmentEvalTransform((64, 48), scales=(0.5, 1.0, 1.5), window=40)(image, labels)
    assert [several[f"image_{k}"].shape[1:] for k in range(3)] == [(40, 53), (48, 64), (72, 96)]


def config(root, **keys):
    opts = ["DATA.DATA_PATH", str(root), "DATA.DATASET", "image_mask", "MODEL.NUM_CLASSES", 5]
    opts += ["DATA.IMAGE_SIZE", 32, "DATA.RESIZE_LIMITS", "[64, 48]", "TASK", "segment"]
    return get_config(None, [*opts, *(item for pair in keys.items() for item in pair)])


def test_samples_depend_on_both_seeds_only(tmp_path):
    write_scenes(tmp_path, images={"train": 3, "val": 2})
    dataset = build_segmentation_dataset(config(tmp_path), "train")
    first, again, other = dataset[Sample(1, 5)], dataset[Sample(1, 5)], dataset[Sample(1, 6)]
    assert set(first) == {"image", "label", "box", "index"} and first["index"] == 1
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["image"] != other["image"]).any()
    assert dataset.images.class_names == ("sky", "hill", "water", "house", "tree")
    with Loader(dataset, num_workers=1) as loader:  # a worker without Paddle
        (batch,) = loader([[Sample(1, 5), Sample(0, 0)]])
    np.testing.assert_array_equal(batch["image"][0], first["image"])
    assert build_segmentation_dataset(config(tmp_path), "val")[Sample(0, 0)]["label"].shape == (96, 128)


def test_wrong_masks_stop_training_and_unreadable_images_are_replaced(tmp_path):
    write_scenes(tmp_path / "data", images={"train": 3, "val": 1})
    root, bad_images = tmp_path / "data", tmp_path / "bad.txt"
    dataset = build_segmentation_dataset(config(root), "train", bad_images=bad_images)
    (root / "images/train/scene_0000.png").write_bytes(b"")
    assert dataset[Sample(0, 0)]["index"] == 1 and "scene_0000.png" in bad_images.read_text()
    with pytest.raises(ImageError, match="empty file"):
        build_segmentation_dataset(config(root), "train")[Sample(0, 0)]
    Image.fromarray(np.full((96, 128), 9, np.uint8)).save(root / "masks/train/scene_0002.png")
    with pytest.raises(MaskError, match="scene_0002.png: value 9 in 12288 pixels"):
        dataset[Sample(2, 0)]
    with pytest.raises(ValueError, match="NUM_CLASSES=255; label maps hold at most 254"):
        build_segmentation_dataset(config(root, **{"MODEL.NUM_CLASSES": 255}), "train")
    with pytest.raises(ValueError, match="TRAIN.INTERPOLATION = bicubic: TASK: segment resizes bilinearly"):
        build_segmentation_dataset(config(root, **{"TRAIN.INTERPOLATION": "bicubic"}), "train")


def test_elongated_images(tmp_path):
    assert fitting_size((1, 20000), (2048, 512)) == (1, 2048)
    strip = np.zeros((1, 20000, 3), np.uint8)
    with pytest.raises(ValueError, match="20000 x 1 pixels are too elongated"):
        resize_bilinear(strip, covering_size((1, 20000), 512))


def test_keys_reach_the_transforms(tmp_path):
    write_scenes(tmp_path, images={"train": 1, "val": 1})
    keys = {
        "TRAIN.RESIZE_RATIO": "[0.9, 1.1]",
        "TRAIN.CAT_MAX_RATIO": 0.5,
        "TRAIN.PHOTOMETRIC": False,
        "TRAIN.HFLIP": 0.25,
        "TEST.SCALES": "[0.5, 1.0]",
        "DATA.IGNORE_LABEL": 9,
        "DATA.REDUCE_ZERO_LABEL": True,
        "DATA.IMAGE_SIZE": "[32, 64]",
    }
    train, val = (build_segmentation_dataset(config(tmp_path, **keys), split) for split in ("train", "val"))
    assert train.transform == SegmentTrainTransform((32, 64), (64, 48), (0.9, 1.1), 0.5, 0.25, False)
    assert val.transform == SegmentEvalTransform((64, 48), (0.5, 1.0), 32)
    assert (train.read_mask.ignore_label, train.read_mask.reduce_zero_label) == (9, True)


def test_workers_need_no_paddle():
    code = "import sys, beit.data.segmentation; sys.exit('paddle' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
