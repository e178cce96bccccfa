from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.data.batch_transforms import box_mask, erase, normalize

BOXES = np.array(
    [[[1, 2, 3, 4]], [[0, 0, 0, 0]], [[6, 0, 2, 8]]], np.int32
)  # one box; no box; a box at the border


def inside(box, height=8, width=8):
    mask = np.zeros((height, width), bool)
    mask[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
    return mask


def test_normalize():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (images / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    found = normalize(paddle.to_tensor(images), mean, std)
    assert found.dtype == paddle.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)


def test_box_mask():
    found = box_mask(paddle.to_tensor(BOXES[:, 0]), 8, 8).numpy()
    np.testing.assert_array_equal(found[:, 0], np.stack([inside(box) for box in BOXES[:, 0]]))


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erase_fills_the_boxes_and_nothing_else(mode):
    paddle.seed(0)
    images = paddle.full([3, 3, 8, 8], 7.0)
    found = erase(images, paddle.to_tensor(BOXES), mode).numpy()
    for image, box in zip(found, BOXES[:, 0], strict=True):
        filled = image[:, inside(box)]  # [3, pixels]
        assert (image[:, ~inside(box)] == 7).all()
        assert (np.abs(filled) < 6).all()
        if mode == "const":
            assert (filled == 0).all()
        elif filled.size:
            colors = {"rand": 3, "pixel": filled.size}[mode]
            assert len(np.unique(filled)) == colors


def test_pixel_noise_is_standard_normal():
    paddle.seed(0)
    boxes = paddle.to_tensor(np.array([[[0, 0, 64, 64]]], np.int32))
    noise = erase(paddle.full([1, 3, 64, 64], 7.0), boxes, "pixel").numpy()
    assert noise.mean() == pytest.approx(0, abs=0.04)
    assert noise.std() == pytest.approx(1, abs=0.03)


def test_erase_several_boxes():
    boxes = np.array([[[0, 0, 2, 2], [5, 5, 2, 3]]], np.int32)
    found = erase(paddle.ones([1, 3, 8, 8]), paddle.to_tensor(boxes), "const").numpy()
    np.testing.assert_array_equal(found[0, 0] == 0, inside(boxes[0, 0]) | inside(boxes[0, 1]))
