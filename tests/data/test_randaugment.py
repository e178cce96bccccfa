"""The operations against NumPy or other functions of Pillow, the random choices by their statistics."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageFilter

from beit.data import randaugment
from beit.data.randaugment import OPS, Policy, RandAugment, parse_policy

FILL = (124, 116, 104)
PIXELS = np.random.default_rng(0).integers(20, 220, (12, 16, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
GRAY = np.rint(PIXELS @ np.array([0.299, 0.587, 0.114]))


def apply(name, level):
    return np.asarray(OPS[name][0](IMAGE, level, FILL)).astype(int)


def blend(base, factor):
    return np.clip(base + factor * (PIXELS.astype(float) - base), 0, 255)


def equalized(channel):
    """Histogram equalization with Pillow's integer step (total without the last filled bin) // 255."""
    counts = np.bincount(channel.ravel(), minlength=256)
    step = (counts.sum() - counts[counts > 0][-1]) // 255
    if step == 0:
        return channel
    return np.minimum((step // 2 + np.cumsum(counts) - counts) // step, 255)[channel]


def bilinear_free_affine(matrix):
    """The affine map written out, for maps of whole pixels to whole pixels."""
    a, b, c, d, e, f = matrix
    expected = np.full((12, 16, 3), FILL)
    for y in range(12):
        for x in range(16):
            source_x, source_y = math.floor(a * x + b * y + c), math.floor(d * x + e * y + f)
            if 0 <= source_x < 16 and 0 <= source_y < 12:
                expected[y, x] = PIXELS[source_y, source_x]
    return expected


def test_there_are_fifteen_operations():
    assert len(OPS) == 15


def test_auto_contrast():
    low, high = PIXELS.min((0, 1)).astype(float), PIXELS.max((0, 1))
    expected = (PIXELS - low) * 255 / (high - low)
    np.testing.assert_allclose(apply("AutoContrast", 0), expected, atol=1)


def test_equalize():
    wide = np.random.default_rng(1).integers(90, 130, (40, 50, 3), dtype=np.uint8)
    found = np.asarray(OPS["Equalize"][0](Image.fromarray(wide), 0, FILL))
    expected = np.stack([equalized(wide[..., c]) for c in range(3)], -1)
    np.testing.assert_array_equal(found, expected)


def test_invert():
    np.testing.assert_array_equal(apply("Invert", 0), 255 - PIXELS.astype(int))


@pytest.mark.parametrize("bits", [0, 1, 3, 4])
def test_posterize(bits):
    np.testing.assert_array_equal(apply("PosterizeIncreasing", bits), PIXELS >> (8 - bits) << (8 - bits))


@pytest.mark.parametrize("threshold", [0, 100, 256])
def test_solarize(threshold):
    expected = np.where(threshold > PIXELS, PIXELS, 255 - PIXELS)
    np.testing.assert_array_equal(apply("SolarizeIncreasing", threshold), expected)


@pytest.mark.parametrize("addend", [0, 99, 128])
def test_solarize_add(addend):
    expected = np.where(PIXELS < 128, np.minimum(255, PIXELS.astype(int) + addend), PIXELS)
    np.testing.assert_array_equal(apply("SolarizeAdd", addend), expected)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1.81])
def test_enhancements(factor):
    np.testing.assert_allclose(apply("BrightnessIncreasing", factor), blend(0.0, factor), atol=1)
    np.testing.assert_allclose(
        apply("ContrastIncreasing", factor), blend(round(GRAY.mean()), factor), atol=1.5
    )
    np.testing.assert_allclose(apply("ColorIncreasing", factor), blend(GRAY[..., None], factor), atol=1.5)
    smooth = np.asarray(IMAGE.filter(ImageFilter.SMOOTH)).astype(float)
    np.testing.assert_allclose(apply("SharpnessIncreasing", factor), blend(smooth, factor), atol=1)


@pytest.mark.parametrize(
    ("name", "level", "matrix"),
    [
        ("TranslateXRel", 0.25, (1, 0, 4, 0, 1, 0)),
        ("TranslateXRel", -0.25, (1, 0, -4, 0, 1, 0)),
        ("TranslateYRel", 0.25, (1, 0, 0, 0, 1, 3)),
        ("TranslateYRel", -0.25, (1, 0, 0, 0, 1, -3)),
        ("Rotate", 0.0, (1, 0, 0, 0, 1, 0)),
        ("Rotate", 180.0, (-1, 0, 15, 0, -1, 11)),
        ("ShearX", 0.0, (1, 0, 0, 0, 1, 0)),
        ("ShearY", 0.0, (1, 0, 0, 0, 1, 0)),
    ],
)
def test_geometric_operations_on_whole_pixels(name, level, matrix):
    np.testing.assert_array_equal(apply(name, level), bilinear_free_affine(matrix))


@pytest.mark.parametrize(
    ("name", "level", "matrix"),
    [("ShearX", 0.27, (1, 0.27, 0, 0, 1, 0)), ("ShearY", -0.27, (1, 0, 0, -0.27, 1, 0))],
)
def test_shear_is_a_bicubic_affine_map(name, level, matrix):
    expected = IMAGE.transform(
        (16, 12), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC, fillcolor=FILL
    )
    np.testing.assert_array_equal(apply(name, level), np.asarray(expected))
    corner = apply(name, level)[-1, -1] if name == "ShearX" else apply(name, level)[0, -1]
    np.testing.assert_array_equal(corner, FILL)


def test_positive_rotation_is_counter_clockwise_around_the_center():
    image = Image.fromarray(
        np.pad(np.full((1, 1, 3), 255, np.uint8), ((5, 5), (9, 1), (0, 0)))
    )  # right of center
    turned = np.asarray(OPS["Rotate"][0](image, 90.0, FILL))[..., 0]
    assert np.unravel_index(turned.argmax(), turned.shape)[0] < 5  # above it


@pytest.mark.parametrize(
    ("name", "at_9", "at_10"),
    [
        ("AutoContrast", {0}, {0}),
        ("Rotate", {27, -27}, {30, -30}),
        ("PosterizeIncreasing", {1}, {0}),
        ("SolarizeIncreasing", {26}, {0}),
        ("SolarizeAdd", {99}, {110}),
        ("ColorIncreasing", {1.81, 0.19}, {1.9, 0.1}),
        ("SharpnessIncreasing", {1.81, 0.19}, {1.9, 0.1}),
        ("ShearX", {0.27, -0.27}, {0.3, -0.3}),
        ("TranslateYRel", {0.405, -0.405}, {0.45, -0.45}),
    ],
)
def test_levels(name, at_9, at_10):
    rng = np.random.default_rng(0)
    for magnitude, expected in ((0.9, at_9), (1.0, at_10)):
        assert {round(OPS[name][1](magnitude, rng), 6) for _ in range(40)} == expected


def test_every_operation_keeps_size_and_mode():
    rng = np.random.default_rng(0)
    for op, level in OPS.values():
        result = op(IMAGE, level(0.9, rng), FILL)
        assert (result.mode, result.size) == ("RGB", (16, 12))


def test_random_choices_follow_the_policy(monkeypatch):
    """Two operations of 15 uniformly, each with p = .5; magnitude N(9, .5) clipped at 10."""
    applied = []

    def recorded(name):
        return (lambda image, level, fill: applied.append((name, level)) or image, lambda m, rng: m)

    monkeypatch.setattr(randaugment, "OPS", {name: recorded(name) for name in OPS})
    augment = RandAugment(parse_policy("rand-m9-mstd0.5-inc1"), FILL)
    rng = np.random.default_rng(0)
    for _ in range(6000):
        augment(IMAGE, rng)
    names, levels = Counter(name for name, _ in applied), np.array([level for _, level in applied])
    assert len(applied) == pytest.approx(6000, rel=0.03)  # 2 * 6000 * 0.5
    assert set(names) == set(OPS)
    assert max(names.values()) < 480 and min(names.values()) > 320
    assert levels.max() == 1.0
    assert (levels == 1.0).mean() == pytest.approx(0.0228, abs=0.01)  # beyond two deviations
    assert np.median(levels) == pytest.approx(0.9, abs=0.003)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("rand-m9-mstd0.5-inc1", Policy(9, 0.5, 2, 0.5)),
        ("rand-inc1", Policy(10, 0.0, 2, 0.5)),
        ("rand-n3-p1-m7.5-inc1", Policy(7.5, 0.0, 3, 1.0)),
    ],
)
def test_parse_policy(text, policy):
    assert parse_policy(text) == policy


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("augmix-m3", "'augmix' is not known"),
        ("rand-m9-w0-inc1", "part 'w0' is not understood"),
        ("rand-m9-mmax10-inc1", "part 'mmax10' is not understood"),
        ("rand-m9-n2.5-inc1", "part 'n2.5' is not understood"),
        ("rand-m-inc1", "part 'm' is not understood"),
        ("rand-m11-inc1", "magnitude 11 is above 10"),
        ("rand-p2-inc1", "probability 2 is above 1"),
        ("rand-mstd101-inc1", "magnitude_std 101 is above 100"),
        ("rand-m9", "append -inc1"),
        ("rand-m9-inc0", "append -inc1"),
    ],
)
def test_parse_policy_refuses(text, match):
    with pytest.raises(ValueError, match=match):
        parse_policy(text)


def test_parts_of_the_policy_have_an_effect():
    rng = np.random.default_rng(0)
    nothing = RandAugment(Policy(probability=0.0), FILL)(IMAGE, rng)
    assert nothing is IMAGE
    never = RandAugment(Policy(num_ops=0), FILL)(IMAGE, rng)
    assert never is IMAGE
    changed = RandAugment(Policy(num_ops=5, probability=1.0), FILL)(IMAGE, rng)
    assert (np.asarray(changed) != PIXELS).any()
