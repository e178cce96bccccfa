from __future__ import annotations

import numpy as np
import paddle

from beit.data.batch_transforms import normalize
from beit.tasks.previews import denormalize, gray_out, tile, to_uint8

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_denormalize_inverts_normalize_for_every_value():
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3).transpose(0, 3, 1, 2)
    normalized = normalize(paddle.to_tensor(images), MEAN, STD)
    np.testing.assert_array_equal(denormalize(normalized, MEAN, STD), images.transpose(0, 2, 3, 1))


def test_values_outside_of_0_to_1_are_clipped():
    images = np.array([-0.5, 0.0, 0.5, 1.5]).reshape(1, 1, 2, 2).repeat(3, axis=1)
    assert to_uint8(images)[0, ..., 0].tolist() == [[0, 0], [128, 255]]


def test_tiles_fill_rows():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(3, axis=3)
    assert tile(images, columns=2)[..., 0].tolist() == [[0, 1], [2, 3]]  # the fifth would not fill a row
    assert tile(images[:3], columns=4)[..., 0].tolist() == [[0, 1, 2]]


def test_masked_patches_are_gray():
    images = np.zeros((1, 4, 6, 3), np.uint8)
    mask = np.array([[[True, False], [False, True]]])
    expected = np.zeros((4, 6))
    expected[:2, :3] = expected[2:, 3:] = 127
    for channel in range(3):
        np.testing.assert_array_equal(gray_out(images, mask)[0, ..., channel], expected)
