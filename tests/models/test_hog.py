"""The teacher without weights, against loops over pixels as MaskFeat describes it, and a run that trains with it."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest

from beit.models.hog import Hog
from beit.tasks.tokenizer import Tokenizer
from tests.tiny import TOKENIZER, tiny_config


def reference(image, patch):
    """`[N, T]` of an image `[3, H, W]`: MaskFeat's histograms, centered, and mean colors."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="reflect").astype(np.float64)
    cell = patch // 2
    histograms = np.zeros((3, height // cell, width // cell, 9))
    for c in range(3):
        for y in range(height):
            for x in range(width):
                window = padded[c, y : y + 3, x : x + 3]
                along_x = (window[:, 0] - window[:, 2]) @ [1, 2, 1]
                along_y = (window[0] - window[2]) @ [1, 2, 1]
                number = math.floor(math.atan2(along_x, along_y) / math.pi * 9) % 9
                histograms[c, y // cell, x // cell, number] += math.hypot(along_x, along_y)
    histograms /= np.linalg.norm(histograms, axis=-1, keepdims=True)
    histograms -= histograms.mean(-1, keepdims=True)
    rows = []
    for y in range(height // patch):
        for x in range(width // patch):
            cells = histograms[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            pixels = image[:, patch * y : patch * (y + 1), patch * x : patch * (x + 1)]
            rows.append([*cells.transpose(0, 3, 1, 2).ravel(), *(pixels.mean((1, 2)) - 0.5)])
    return np.array(rows)


@pytest.mark.parametrize("patch", [4, 8])
def test_features_equal_loops_over_pixels(patch):
    images = np.random.default_rng(0).random((2, 3, 16, 24)).astype(np.float32)
    teacher = Hog(patch)
    found = teacher(paddle.to_tensor(images)).numpy()
    assert found.shape == (2, 16 * 24 // patch**2, teacher.dim) and teacher.dim == 111
    for row, image in zip(found, images, strict=True):
        np.testing.assert_allclose(row, reference(image, patch), atol=1e-4)


def test_flat_patches_have_their_color_alone():
    gray = paddle.full([1, 3, 8, 8], 0.75)
    np.testing.assert_allclose(Hog(8)(gray).numpy()[0, 0], [0.0] * 108 + [0.25] * 3, atol=1e-6)


def test_the_tokenizer_takes_it_without_weights():
    keys = TOKENIZER | {"TOKENIZER__TEACHER": "hog", "TOKENIZER__TEACHER_DIM": 111}
    task = Tokenizer(tiny_config(**keys))
    task.train()
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    scalars = task({"image": paddle.to_tensor(images)}, np.random.default_rng(0))
    assert 0 < float(scalars["cosine_loss"]) < 2
    for name, value, words in (
        ("TOKENIZER__TEACHER_DIM", 64, "the teacher hog outputs 111 channels; set TOKENIZER.TEACHER_DIM 111"),
        ("TOKENIZER__TEACHER_PRETRAINED", "clip.pt", "hog has no weights: leave out TOKENIZER.TEACHER_PRETRAINED clip.pt"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            Tokenizer(tiny_config(**keys | {name: value}))
    with pytest.raises(ValueError, match=r"TOKENIZER\.PATCH_SIZE = 5 is odd"):
        Hog(5)
