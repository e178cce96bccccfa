"""The two views of pre-training against plain calls of Pillow."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from beit.config import get_config
from beit.data.transforms import ColorJitter, resized_crop_box
from beit.data.two_view import (
    CentralTwoView,
    TwoViewTransform,
    Views,
    build_eval_views,
    build_train_views,
)

V1 = Views((32, 32), (16, 16), Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
V2 = Views((32, 32), (32, 32), Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((90, 61), Image.Resampling.BILINEAR)


def as_array(image):
    return np.asarray(image).transpose(2, 0, 1)


@pytest.mark.parametrize(("views", "scale"), [(V1, (0.08, 1.0)), (V2, (0.2, 1.0))])
@pytest.mark.parametrize("seed", range(4))
def test_jitter_then_flip_then_one_crop_for_both(photo, views, scale, seed):
    got = TwoViewTransform(views, scale=scale)(photo, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    image = photo
    for choice in rng.permutation(3):
        enhancer = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[choice]
        image = enhancer(image).enhance(rng.uniform(0.6, 1.4))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    box = resized_crop_box(90, 61, scale, (3 / 4, 4 / 3), rng)
    np.testing.assert_array_equal(
        got["image"], as_array(image.crop(box).resize((32, 32), Image.Resampling.BICUBIC))
    )
    side = views.second_size[0]
    np.testing.assert_array_equal(
        got["second"], as_array(image.crop(box).resize((side, side), views.second_resample))
    )
    assert got["image"].dtype == got["second"].dtype == np.uint8


def test_equal_sizes_and_filters_give_equal_views(photo):
    views = TwoViewTransform(V2)(photo, np.random.default_rng(1))
    np.testing.assert_array_equal(views["image"], views["second"])


def test_flip_and_jitter_can_be_left_out(photo):
    plain = TwoViewTransform(V1, scale=(1.0, 1.0), ratio=(90 / 61, 90 / 61), hflip=0.0, jitter=None)
    expected = as_array(photo.resize((32, 32), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(plain(photo, np.random.default_rng(0))["image"], expected)


def test_both_central_views_are_of_the_same_crop(photo):
    got = CentralTwoView(V1, crop_pct=0.875)(photo)
    side = round(61 * 0.875)
    left, top = (90 - side) // 2, (61 - side) // 2
    part = photo.crop((left, top, left + side, top + side))
    np.testing.assert_array_equal(got["image"], as_array(part.resize((32, 32), Image.Resampling.BICUBIC)))
    np.testing.assert_array_equal(got["second"], as_array(part.resize((16, 16), Image.Resampling.LANCZOS)))


def test_a_rectangular_view_keeps_its_aspect_ratio(photo):
    views = Views((16, 32), None)
    got = CentralTwoView(views)(photo)
    assert set(got) == {"image"}
    part = photo.crop((0, 8, 90, 8 + 45))
    np.testing.assert_array_equal(got["image"], as_array(part.resize((32, 16), Image.Resampling.BICUBIC)))


def test_configs_of_v1_and_v2():
    v1 = build_train_views(get_config("beit_base_patch16_224_pt22k"), (112, 112))
    assert v1 == TwoViewTransform(
        Views((224, 224), (112, 112), Image.Resampling.BICUBIC, Image.Resampling.LANCZOS),
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        hflip=0.5,
        jitter=ColorJitter(0.4),
    )
    v2 = build_train_views(get_config("beitv2_base_patch16_224_pt1k"), (224, 224))
    assert (v2.scale, v2.views.second_size) == ((0.2, 1.0), (224, 224))
    assert v2.views.second_resample is Image.Resampling.BICUBIC
    opts = ["TRAIN.COLOR_JITTER", 0.0, "TRAIN.HFLIP", 0.0, "DATA.CROP_PCT", 0.5]
    assert build_train_views(get_config(opts=opts), None).jitter is None
    assert build_train_views(get_config(opts=opts), None).hflip == 0.0
    assert build_eval_views(get_config(opts=opts), None).crop_pct == 0.5
    opts = ["TRAIN.INTERPOLATION", "bilinear"]
    assert build_train_views(get_config(opts=opts), None).views.resample is Image.Resampling.BILINEAR
    assert build_eval_views(get_config(opts=opts), None).views.resample is Image.Resampling.BICUBIC
