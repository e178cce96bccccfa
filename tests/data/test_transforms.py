from __future__ import annotations

import dataclasses
import math
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from beit.data import transforms
from beit.data.images import ImageFile, open_image
from beit.data.model_input import build_eval_transform
from beit.data.randaugment import RandAugment
from beit.data.transforms import ColorJitter, EvalTransform, TrainTransform
from tests.tiny import tiny_config

BICUBIC = Image.Resampling.BICUBIC


def noise_image(width=90, height=70, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def config(**train):
    data = {
        "IMAGE_SIZE": 32,
        "CROP_PCT": 0.875,
        "INTERPOLATION": "bicubic",
        "SCALED_DECODING": True,
        "IMAGENET_MEAN": (0.485, 0.456, 0.406),
    }
    defaults = {
        "SCALE": [0.08, 1.0],
        "RATIO": [3 / 4, 4 / 3],
        "HFLIP": 0.5,
        "AUTO_AUGMENT": "rand-m9-mstd0.5-inc1",
        "INTERPOLATION": None,
        "COLOR_JITTER": 0.4,
        "RANDOM_ERASE_PROB": 0.25,
        "RANDOM_ERASE_COUNT": 1,
    }
    return SimpleNamespace(DATA=SimpleNamespace(**data), TRAIN=SimpleNamespace(**{**defaults, **train}))


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 501), (333, 333), (40, 30)])
@pytest.mark.parametrize(("side", "crop_pct", "resized"), [(224, 0.875, 256), (224, 0.9, 248), (64, 1.0, 64)])
def test_eval_equals_pillow_written_out(width, height, side, crop_pct, resized):
    image = noise_image(width, height)
    if width <= height:
        scaled = image.resize((resized, int(resized * height / width)), BICUBIC)
    else:
        scaled = image.resize((int(resized * width / height), resized), BICUBIC)
    left, top = round((scaled.width - side) / 2), round((scaled.height - side) / 2)
    expected = np.asarray(scaled)[top : top + side, left : left + side]
    found = EvalTransform((side, side), crop_pct)(image)["image"]
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_an_image_of_the_target_size_is_not_resampled():
    image = noise_image(32, 40)
    assert transforms.resize_shorter_side(image, (32, 32)) is image


@pytest.mark.parametrize(("width", "height"), [(100, 50), (50, 100), (61, 77), (77, 61)])
def test_a_rectangle_is_covered_and_one_side_fits(width, height):
    resized = transforms.resize_shorter_side(noise_image(width, height), (24, 40))
    assert resized.height >= 24 and resized.width >= 40
    assert resized.height == 24 or resized.width == 40
    assert resized.width / resized.height == pytest.approx(width / height, rel=0.05)
    assert EvalTransform((24, 40), 0.9)(noise_image(width, height))["image"].shape == (3, 24, 40)


TORCHVISION_CROPS = {
    (65, 1, 224, 0.875): 3960968353,
    (1, 65, 224, 0.875): 2928311179,
    (6501, 100, 224, 0.875): 1936542554,
    (100, 6501, 224, 0.9): 1005178609,
    (500, 375, 224, 0.9): 975681353,
    (300, 20, 32, 1.0): 3931048613,
    (1, 700, 224, 0.9): 1687986465,
    (2, 1000, 384, 1.0): 812422025,
    (2000, 3, 224, 0.875): 839681030,
    (7, 5000, 64, 0.875): 2304475096,
    (640, 320, 224, 0.875): 887394889,
}
"""zlib.crc32 of the bytes of Compose([Resize(int(side / pct), InterpolationMode.BICUBIC), CenterCrop(side)]) for
Image.fromarray(elongated(width, height)), by width, height, side and pct. From torchvision 0.29 with Pillow 12.3."""


def elongated(width, height):
    """An image without random numbers, so that any library computes the same."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    return ((x * x * 7 + y * y * 11 + x * y * 3)[..., None] * np.array([1, 3, 5]) % 251).astype(np.uint8)


@pytest.mark.parametrize(("width", "height", "side", "pct"), TORCHVISION_CROPS)
def test_an_elongated_image_is_resized_whole_as_torchvision(width, height, side, pct):
    found = EvalTransform((side, side), pct)(Image.fromarray(elongated(width, height)))["image"]
    assert zlib.crc32(found.transpose(1, 2, 0).tobytes()) == TORCHVISION_CROPS[width, height, side, pct]


@pytest.mark.parametrize("size", [(1, 100_000), (100_000, 1), (3, 60_000), (1, 1_000_000)])
def test_an_elongated_image_needs_the_memory_of_its_crop(size):
    """Resized, these have up to 65 billion pixels."""
    image = Image.fromarray(elongated(*size))
    tracemalloc.start()
    found = EvalTransform((224, 224), 0.875)(image)["image"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (3, 224, 224) and peak < 30e6


def test_without_a_crop_an_elongated_image_is_refused():
    with pytest.raises(
        ValueError, match="1 x 20000 pixels are too elongated: resized they become 256 x 5120000"
    ):
        transforms.resize_shorter_side(Image.new("RGB", (1, 20000)), (256, 256))


def test_center_crop_rounds_half_to_even_as_torchvision():
    image = noise_image(13, 11)
    for side, margins in {(8, 8): (2, 2), (10, 10): (2, 0)}.items():  # 2.5, 1.5 -> 2, 2; 1.5, 0.5 -> 2, 0
        left, top = margins
        expected = np.asarray(image)[top : top + side[0], left : left + side[1]]
        np.testing.assert_array_equal(np.asarray(transforms.center_crop(image, side)), expected)


def test_center_crop_pads_small_images():
    image = noise_image(3, 2)
    expected = np.zeros((5, 8, 3), np.uint8)
    expected[1:3, 2:5] = np.asarray(image)  # 5 columns missing: 2 left, 3 right; 3 rows: 1 above, 2 below
    np.testing.assert_array_equal(np.asarray(transforms.center_crop(image, (5, 8))), expected)


def reference_box(width, height, scale, ratio, rng):
    """torchvision's get_params, which draws in this order."""
    for _ in range(10):
        target = rng.uniform(*scale) * width * height
        aspect = math.exp(rng.uniform(*np.log(ratio)))
        w, h = int(round(math.sqrt(target * aspect))), int(round(math.sqrt(target / aspect)))
        if w <= width and h <= height:
            i, j = rng.integers(height - h + 1), rng.integers(width - w + 1)
            return j, i, j + w, i + h
    raise AssertionError


@pytest.mark.parametrize("seed", range(20))
def test_train_geometry_equals_pillow_written_out(seed):
    image = noise_image(seed=seed)
    transform = TrainTransform((32, 48), hflip=0.5)
    rng = np.random.default_rng(seed)
    left, top, right, bottom = reference_box(90, 70, (0.08, 1), (3 / 4, 4 / 3), rng)
    cropped = Image.fromarray(np.asarray(image)[top:bottom, left:right])
    expected = np.asarray(cropped.resize((48, 32), BICUBIC))
    if rng.random() < 0.5:
        expected = expected[:, ::-1]
    found = transform(image, np.random.default_rng(seed))
    np.testing.assert_array_equal(found["image"], expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(found["erase"], np.zeros((1, 4)))


def test_resized_crop_stays_inside_and_in_range():
    rng = np.random.default_rng(0)
    for _ in range(300):
        left, top, right, bottom = transforms.resized_crop_box(500, 375, (0.08, 1.0), (3 / 4, 4 / 3), rng)
        width, height = right - left, bottom - top
        assert 0 <= left < right <= 500 and 0 <= top < bottom <= 375
        assert 0.079 < width * height / (500 * 375) <= 1
        assert 0.74 < width / height < 1.35


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1000, 10), (493, 0, 506, 10)), ((10, 1000), (0, 493, 10, 506)), ((1, 1), (0, 0, 1, 1))],
)
def test_resized_crop_falls_back_to_the_center(size, expected):
    ratio = (3 / 4, 4 / 3)
    scale = (0.9, 1.0) if size != (1, 1) else (0.01, 0.02)  # rounds to no pixel
    assert transforms.resized_crop_box(*size, scale, ratio, np.random.default_rng(0)) == expected


def test_statistics_of_erase_boxes():
    rng = np.random.default_rng(0)
    boxes = np.stack([transforms.erase_boxes((224, 224), 0.25, 1, rng)[0] for _ in range(4000)])
    erased = boxes[boxes[:, 2] > 0]
    assert len(erased) / len(boxes) == pytest.approx(0.25, abs=0.02)
    top, left, height, width = erased.T
    assert (
        (top >= 0).all() and (left >= 0).all() and (top + height <= 224).all() and (left + width <= 224).all()
    )
    share, aspect = height * width / 224**2, np.log(height / width)
    assert 0.019 < share.min() < 0.025 and 0.32 < share.max() < 0.337
    assert share.mean() == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert aspect.mean() == pytest.approx(0, abs=0.06)
    assert np.abs(aspect).max() < math.log(1 / 0.3) + 0.05
    assert np.abs(aspect).max() > math.log(1 / 0.3) - 0.1


def test_one_to_three_erase_boxes_share_the_area():
    """The number of boxes is uniform in 1 to 3; each has 2 % to 1/3 of the area divided by the number drawn."""
    rng = np.random.default_rng(0)
    boxes = np.stack([transforms.erase_boxes((224, 224), 1.0, 3, rng) for _ in range(1500)])
    assert boxes.shape == (1500, 3, 4) and boxes.dtype == np.int32
    share = (boxes[..., 2] * boxes[..., 3]) / 224**2
    drawn = (share > 0).sum(1)
    for number in (1, 2, 3):
        sizes = share[drawn == number][:, :number]
        assert len(sizes) / 1500 == pytest.approx(1 / 3, abs=0.05)
        assert 0.015 / number < sizes.min() < 0.03 / number
        assert 0.31 / number < sizes.max() < 0.34 / number
        assert sizes.mean() == pytest.approx((0.02 + 1 / 3) / 2 / number, rel=0.06)


def test_one_erase_box_draws_no_number():
    """The numbers of the published recipes, which erase one box, do not depend on the draw of a count."""
    rng, reference = np.random.default_rng(3), np.random.default_rng(3)
    (box,) = transforms.erase_boxes((224, 224), 1.0, 1, rng)
    reference.random()
    area, aspect = (
        reference.uniform(0.02, 1 / 3) * 224**2,
        math.exp(reference.uniform(-math.log(1 / 0.3), math.log(1 / 0.3))),
    )
    assert tuple(box[2:]) == (round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect)))


def test_erase_probability_zero_and_boxes_that_never_fit():
    rng = np.random.default_rng(0)
    assert not transforms.erase_boxes((224, 224), 0.0, 2, rng).any()
    boxes = transforms.erase_boxes((1, 1), 1.0, 2, rng)
    assert not (boxes[:, 2] * boxes[:, 3]).any()


def test_color_jitter_equals_three_enhancements_in_drawn_order():
    image = noise_image(8, 8)
    rng = np.random.default_rng(3)
    expected = image
    for choice in rng.permutation(3):
        factor = rng.uniform(0.6, 1.4)
        enhancer = [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color][choice]
        expected = enhancer(expected).enhance(factor)
    found = ColorJitter(0.4)(image, np.random.default_rng(3))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def test_build_train_transform_reads_every_key():
    transform = transforms.build_train_transform(
        config(SCALE=[0.2, 0.9], RATIO=[1, 2], HFLIP=0.1, RANDOM_ERASE_COUNT=3)
    )
    assert transform.size == (32, 32) and transform.resample == BICUBIC
    assert (transform.scale, transform.ratio, transform.hflip) == ((0.2, 0.9), (1, 2), 0.1)
    assert (transform.erase_probability, transform.erase_count) == (0.25, 3)
    assert isinstance(transform.augment, RandAugment)
    assert transform.augment.fill == (124, 116, 104)
    assert transform.scaled_decoding


def test_color_jitter_is_used_without_auto_augment_only():
    jitter = transforms.build_train_transform(config(AUTO_AUGMENT="")).augment
    assert jitter == ColorJitter(0.4)
    assert transforms.build_train_transform(config(AUTO_AUGMENT="", COLOR_JITTER=0.0)).augment is None
    for settings in (config(), config(AUTO_AUGMENT="")):
        assert transforms.build_train_transform(settings).jitter is None


def test_color_jitter_before_the_crop_equals_the_jittered_image_cropped():
    """Contrast depends on the mean of the whole image, so the order matters."""
    transform = transforms.build_train_transform(config(AUTO_AUGMENT="", HFLIP=0.0), jitter_first=True)
    assert (transform.jitter, transform.augment) == (ColorJitter(0.4), None)
    image = noise_image()
    image.paste((255, 255, 255), (0, 0, 45, 70))
    rng = np.random.default_rng(0)
    box = transforms.resized_crop_box(90, 70, (0.08, 1.0), (3 / 4, 4 / 3), rng)
    expected = np.asarray(ColorJitter(0.4)(image, rng).crop(box).resize((32, 32), BICUBIC))
    found = transform(image, np.random.default_rng(0))["image"]
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))
    after = dataclasses.replace(transform, jitter=None, augment=transform.jitter)
    assert (after(image, np.random.default_rng(0))["image"] != found).any()
    both = transforms.build_train_transform(config(), jitter_first=True)
    assert both.jitter is None and isinstance(both.augment, RandAugment)


def test_build_eval_transform_reads_every_key():
    keys = {"DATA__IMAGE_SIZE": [24, 40], "DATA__CROP_PCT": 0.875, "DATA__INTERPOLATION": "lanczos"}
    lanczos = Image.Resampling.LANCZOS
    assert build_eval_transform(tiny_config(**keys)) == EvalTransform((24, 40), 0.875, lanczos)
    keys |= {"DATA__RESIZE": [30, 50], "DATA__CENTER_CROP": False}
    assert build_eval_transform(tiny_config(**keys)) == EvalTransform(
        (24, 40), 0.875, lanczos, resize=(30, 50), center_crop=False
    )


@pytest.mark.parametrize(
    ("resize", "expected"), [(0, (90, 70)), (35, (45, 35)), ((20, 40), (40, 20)), ((40, 40), (40, 40))]
)
def test_explicit_sizes_of_the_resize(resize, expected):
    image = noise_image()
    found = EvalTransform((16, 16), resize=resize)(image)["image"]
    whole = image if image.size == expected else image.resize(expected, BICUBIC)
    left, top = (expected[0] - 16) // 2, (expected[1] - 16) // 2
    cut = np.asarray(whole)[top : top + 16, left : left + 16]
    np.testing.assert_array_equal(found, cut.transpose(2, 0, 1))


def test_squash_resizes_to_size_by_crop_pct_as_timm():
    found = EvalTransform((24, 40), 0.8, squash=True)(noise_image())["image"]
    expected = np.asarray(noise_image().resize((50, 30), BICUBIC))[3:27, 5:45]
    np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_training_and_evaluation_have_a_filter_each():
    settings = tiny_config(TRAIN__INTERPOLATION="bilinear", DATA__INTERPOLATION="bicubic")
    assert transforms.build_train_transform(settings).resample == Image.Resampling.BILINEAR
    assert build_eval_transform(settings).resample == BICUBIC
    assert transforms.build_train_transform(config()).resample == BICUBIC


def test_same_generator_same_sample():
    transform = transforms.build_train_transform(config())
    first, again = (transform(noise_image(), np.random.default_rng([7, 5])) for _ in range(2))
    other = transform(noise_image(), np.random.default_rng([7, 6]))
    np.testing.assert_array_equal(first["image"], again["image"])
    assert (first["image"] != other["image"]).any()


def detailed(width, height):
    """Noise of all frequencies, as natural images have it."""
    rng, total = np.random.default_rng(0), np.zeros((height, width, 3))
    for side in (2, 4, 8, 16, 32, 64, 128, 256):
        coarse = rng.normal(0, side**0.3, (height // side + 2, width // side + 2, 3)) + rng.normal(
            0, 2 * side**0.3, (height // side + 2, width // side + 2, 1)
        )
        for c in range(3):
            plane = Image.fromarray(coarse[..., c].astype(np.float32))
            total[..., c] += np.asarray(plane.resize((width, height), BICUBIC))
    pixels = np.clip(118 + 50 * total / total.std(), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(1001, 751), (1600, 1201)])
def test_scaled_decoding_keeps_the_random_numbers_and_stays_within_the_stated_error(tmp_path, size):
    path = tmp_path / "a.jpg"
    detailed(*size).save(path, quality=90)
    whole = TrainTransform((224, 224), erase_probability=1.0)
    scaled = dataclasses.replace(whole, scaled_decoding=True)
    image, scales, errors = open_image(path), [], []
    for seed in range(8):
        expected = whole(image, np.random.default_rng(seed))
        with ImageFile(path) as file:
            found = scaled.load(file, np.random.default_rng(seed))
            scales.append(round(size[0] / file.decode().width))  # decodes once: as the transform asked
        np.testing.assert_array_equal(found["erase"], expected["erase"])  # drawn last
        errors.append(np.abs(found["image"].astype(int) - expected["image"]))
        if scales[-1] == 1:
            assert not errors[-1].any()
    means = [error.mean() for error, scale in zip(errors, scales, strict=True) if scale > 1]
    assert len(means) >= 4 and set(scales) <= {1, 2, 4}
    assert max(means) < 2 and max(error.max() for error in errors) < 50


class Header:
    """Stands for a file of 900 x 700 pixels and records the scale at which it is decoded."""

    size = (900, 700)

    def decode(self, draft_scale=1):
        self.scale = draft_scale
        return noise_image(-(-900 // draft_scale), -(-700 // draft_scale))


def test_the_draft_scale_leaves_the_crop_as_large_as_the_result():
    transform, file = TrainTransform((32, 64), scaled_decoding=True), Header()
    for seed in range(200):
        left, top, right, bottom = reference_box(
            900, 700, (0.08, 1), (3 / 4, 4 / 3), np.random.default_rng(seed)
        )
        transform.load(file, np.random.default_rng(seed))
        enough = [k for k in (1, 2, 4, 8) if (right - left) / k >= 64 and (bottom - top) / k >= 32]
        assert file.scale == max(enough)
    TrainTransform((1024, 1024), scaled_decoding=True).load(file, np.random.default_rng(0))
    assert file.scale == 1
    TrainTransform((32, 64)).load(file, np.random.default_rng(0))
    assert file.scale == 1
