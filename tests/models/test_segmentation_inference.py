from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.models.segmentation_inference import (
    Protocol,
    build_protocol,
    class_logits,
    class_probabilities,
    segment,
    window_starts,
)
from beit.models.upernet import build_upernet
from tests.models.upernet_numpy import bilinear
from tests.tiny import UPERNET, noise_images, upernet_config

CLASSES = UPERNET["MODEL__NUM_CLASSES"]


@pytest.fixture(scope="module")
def model():
    paddle.seed(0)
    model = build_upernet(upernet_config())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    model.eval()
    return model


class Identity(paddle.nn.Layer):
    """A network whose logits at a pixel depend on that pixel only, so they are the same in every window."""

    num_classes = 3

    def __init__(self):
        super().__init__()
        self.backbone = paddle.nn.Layer()
        self.backbone.patch_embed = paddle.nn.Layer()
        self.backbone.patch_embed.patch_size = 4
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape[2:]))
        return images


def test_starts_of_windows():
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(683, 512, 341) == [0, 171]
    assert window_starts(2048, 512, 341) == [0, 341, 682, 1023, 1364, 1536]
    assert window_starts(300, 512, 341) == [0]
    for length in range(10, 60):
        starts = window_starts(length, 12, 8)
        covered = {pixel for start in starts for pixel in range(start, start + 12)}
        assert covered >= set(range(length)) and max(covered) < max(length, 12)


def test_windows_cover_every_pixel_and_overlaps_are_averaged():
    model = Identity()
    images = paddle.to_tensor(noise_images(size=(40, 28)))
    logits = class_logits(model, images, Protocol("slide", (16, 16), (10, 10)))
    np.testing.assert_allclose(logits.numpy(), images.numpy(), atol=1e-6)
    assert set(model.seen) == {(16, 16)} and len(model.seen) == 4 * 3


def test_overlapping_windows_are_averaged(model):
    images = paddle.to_tensor(noise_images(size=(16, 24), batch=1))
    logits = class_logits(model, images, Protocol("slide", (16, 16), (8, 8))).numpy()
    left, right = (
        class_logits(model, images[:, :, :, start : start + 16], Protocol("whole")).numpy()
        for start in (0, 8)
    )
    np.testing.assert_allclose(logits[..., :8], left[..., :8], atol=1e-6)
    np.testing.assert_allclose(logits[..., 8:16], (left[..., 8:] + right[..., :8]) / 2, atol=1e-6)
    np.testing.assert_allclose(logits[..., 16:], right[..., 8:], atol=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (12, 8), (13, 10)])
def test_sliding_equals_whole_if_the_window_covers_the_image(model, size):
    images = paddle.to_tensor(noise_images(size=size))
    slide = class_logits(model, images, Protocol("slide", (16, 16), (10, 10))).numpy()
    whole = class_logits(model, images, Protocol("whole")).numpy()
    np.testing.assert_array_equal(slide, whole)
    assert whole.shape == (2, CLASSES, *size) and np.abs(whole).max() > 0


def test_images_are_padded_to_whole_patches_at_the_end(model):
    images = noise_images(size=(13, 10))
    padded = np.pad(images, [(0, 0), (0, 0), (0, 3), (0, 2)])
    got = class_logits(model, paddle.to_tensor(images), Protocol("whole")).numpy()
    expected = bilinear(model(paddle.to_tensor(padded)).numpy().astype(np.float64), (16, 12))[:, :, :13, :10]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    tiny_image = class_logits(model, paddle.to_tensor(noise_images(size=(3, 3))), Protocol("whole"))
    assert tiny_image.shape == [2, CLASSES, 3, 3]


def test_probabilities_of_scales_and_flips_are_averaged(model):
    views = [paddle.to_tensor(noise_images(seed, size)) for seed, size in ((1, (16, 16)), (2, (24, 20)))]
    got = class_probabilities(model, views, (10, 12), Protocol("whole", flip=True)).numpy()
    expected = 0
    for view in views:
        for mirror in (False, True):
            array = view.numpy()[..., ::-1].copy() if mirror else view.numpy()
            logits = class_logits(model, paddle.to_tensor(array), Protocol("whole")).numpy()
            logits = bilinear(logits.astype(np.float64), (10, 12))
            shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            expected = expected + (shares[..., ::-1] if mirror else shares) / 4
    np.testing.assert_allclose(got, expected, atol=1e-5)
    classes = segment(model, views, (10, 12), Protocol("whole", flip=True)).numpy()
    np.testing.assert_array_equal(classes, got.argmax(1))


def test_one_view_needs_no_softmax(model):
    images = paddle.to_tensor(noise_images())
    classes = segment(model, [images], (20, 18), Protocol("whole")).numpy()
    shares = class_probabilities(model, [images], (20, 18), Protocol("whole")).numpy()
    np.testing.assert_array_equal(classes, shares.argmax(1))
    assert classes.shape == (2, 20, 18)


def test_the_protocol_of_a_config():
    assert build_protocol(upernet_config(DATA__IMAGE_SIZE=512)) == Protocol(
        "slide", (512, 512), (341, 341), False
    )
    assert build_protocol(upernet_config(DATA__IMAGE_SIZE=640)).stride == (426, 426)
    config = upernet_config(TEST__MODE="whole", TEST__STRIDE=7, TEST__FLIP=True, DATA__IMAGE_SIZE=[8, 16])
    assert build_protocol(config) == Protocol("whole", (8, 16), (7, 7), True)
    with pytest.raises(ValueError, match="leaves gaps"):
        build_protocol(upernet_config(TEST__STRIDE=17))
