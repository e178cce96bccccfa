from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.data.resampling import KERNELS, resize_part


def draw(rng, low, high):
    """A whole number whose logarithm is uniform."""
    return int(np.exp(rng.uniform(np.log(low), np.log(high + 1))))


def draw_part(rng, length):
    start = int(rng.integers(length))
    return start, int(rng.integers(start, min(length, start + 250))) + 1


@pytest.mark.parametrize("resample", KERNELS, ids=lambda number: Image.Resampling(number).name)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_part_equals_that_part_of_pillows_resize(mode, resample):
    rng = np.random.default_rng(0)
    for _ in range(150):
        size, resized = ((draw(rng, 1, 1200), draw(rng, 1, 1200)) for _ in range(2))
        if rng.random() < 0.2:  # one side stays
            resized = (size[0], resized[1]) if rng.random() < 0.5 else (resized[0], size[1])
        pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
        if rng.random() < 0.5:
            pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))  # over- and undershoots are clipped
        image = Image.fromarray(pixels if mode == "RGB" else pixels[..., 0])
        (left, right), (top, bottom) = draw_part(rng, resized[0]), draw_part(rng, resized[1])
        box = left, top, right, bottom
        expected = image.resize(resized, resample).crop(box)
        found = resize_part(image, resized, box, resample)
        assert found.mode == mode
        np.testing.assert_array_equal(
            np.asarray(found), np.asarray(expected), err_msg=f"{size} {resized} {box}"
        )
