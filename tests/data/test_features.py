"""Stored features are read by image, and refused if they belong to other images."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.data.features import build_tokenizer_dataset, open_features, row_name
from beit.data.image_list import ImageList
from beit.data.transforms import ColorJitter
from tests.tiny import tiny_config, write_dataset

NAMES = ["a.png", "folder/b.png", "c c.png"]
IMAGES = ImageList.from_names(Path("/data"), NAMES)


def store(folder, array, names=NAMES):
    np.save(folder / "train.npy", array)
    (folder / "train.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def test_a_row_is_read_as_float32_also_in_a_worker(tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 4, 2)).astype(np.float16)
    store(tmp_path, array)
    features = open_features(tmp_path, "train", IMAGES)
    sent = pickle.dumps(features)
    assert len(sent) < 1000  # the path is pickled, not the array
    for index in range(3):
        row = pickle.loads(sent)[index]
        assert row.dtype == np.float32
        np.testing.assert_array_equal(row, array[index].astype(np.float32))


def test_features_of_other_images_are_refused(tmp_path):
    array = np.zeros((3, 4, 2), np.float32)
    with pytest.raises(FileNotFoundError, match=r"train\.npy does not exist; a folder of features holds"):
        open_features(tmp_path, "train", IMAGES)
    store(tmp_path, array, [NAMES[0], NAMES[2], NAMES[1]])
    with pytest.raises(ValueError, match="line 2 is c c.png, image 2 of the data is folder/b.png"):
        open_features(tmp_path, "train", IMAGES)
    store(tmp_path, array[:2], NAMES[:2])
    with pytest.raises(ValueError, match="names 2 images, the data has 3"):
        open_features(tmp_path, "train", IMAGES)
    store(tmp_path, array[:, 0])
    with pytest.raises(ValueError, match=r"is float32 \[3, 2\], expected floating \[3, N, T\]"):
        open_features(tmp_path, "train", IMAGES)


@pytest.mark.parametrize("letter", ["\u2028", "\x0b", "\x1c", "\x85", "\r", "\n"])
def test_any_line_break_but_the_line_feed_is_part_of_a_name(tmp_path, letter):
    names = ["a.png", f"b{letter}b.png", "c.png"]
    images = ImageList.from_names(Path("/data"), names)
    np.save(tmp_path / "train.npy", np.zeros((3, 4, 2), np.float32))
    (tmp_path / "train.txt").write_bytes(b"".join(row_name(images, row) + b"\n" for row in range(3)))
    assert open_features(tmp_path, "train", images).shape == (3, 4, 2)
    other = ImageList.from_names(Path("/data"), ["a.png", f"b{letter}c.png", "c.png"])
    with pytest.raises(ValueError, match="store the features of this data again"):
        open_features(tmp_path, "train", other)


def test_color_jitter_of_the_tokenizer_comes_before_the_crop(tmp_path):
    """Source: unilm/beit2/datasets.py, `build_vqkd_dataset`."""
    keys = {"TRAIN__AUTO_AUGMENT": "", "TRAIN__COLOR_JITTER": 0.3, "TRAIN__INTERPOLATION": "bilinear"}
    config = tiny_config(write_dataset(tmp_path), **keys)
    train, val = (build_tokenizer_dataset(config, split).transform for split in ("train", "val"))
    assert (train.jitter, train.augment) == (ColorJitter(0.3), None)
    assert (train.resample, val.resample) == (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
