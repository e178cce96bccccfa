from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.data import images as images_module
from beit.data.dataset import ClassificationDataset, build_dataset
from beit.data.image_list import ImageList
from beit.data.images import ImageError
from beit.data.sampler import Sample
from beit.data.transforms import EvalTransform, TrainTransform, Transform
from tests.tiny import tiny_config

BAD = {3, 4}


@pytest.fixture
def images(tmp_path):
    """Twelve images; image k has the gray value 20 k, and images 3 and 4 are unreadable."""
    for k in range(12):
        path = tmp_path / f"{k}.png"
        if k in BAD:
            path.write_bytes(b"")
        else:
            Image.new("RGB", (20, 16), (20 * k,) * 3).save(path)
    return ImageList.from_names(tmp_path, [f"{k}.png" for k in range(12)], np.arange(12) % 5)


class Noisy(Transform):
    def __call__(self, image, rng):
        return {"image": np.asarray(image)[..., 0], "noise": rng.random(4)}


class Broken(Transform):
    def __call__(self, image, rng):
        raise ValueError("a mistake of ours")


def test_evaluation_sample(images):
    item = ClassificationDataset(images, EvalTransform((8, 8), 1.0))[Sample(7, 7)]
    assert set(item) == {"image", "label", "index"}
    assert item["image"].shape == (3, 8, 8) and item["image"].dtype == np.uint8
    assert (item["image"] == 140).all()
    assert (item["label"], item["index"]) == (2, 7)
    assert item["label"].dtype == item["index"].dtype == np.int64


def test_training_sample(images):
    item = ClassificationDataset(images, TrainTransform((8, 8), erase_probability=1.0, erase_count=2))[
        Sample(1, 50)
    ]
    assert set(item) == {"image", "label", "index", "erase"}
    assert item["erase"].shape == (2, 4) and item["erase"].dtype == np.int32


def test_samples_without_labels(images, tmp_path):
    item = ClassificationDataset(ImageList.from_names(tmp_path, ["0.png"]), Noisy())[Sample(0, 0)]
    assert "label" not in item and item["index"] == 0


def test_random_numbers_depend_on_both_seeds_only(images):
    dataset = ClassificationDataset(images, Noisy(), seed=5)
    np.testing.assert_array_equal(dataset[Sample(1, 9)]["noise"], np.random.default_rng([5, 9]).random(4))
    np.testing.assert_array_equal(dataset[Sample(1, 9)]["noise"], dataset[Sample(2, 9)]["noise"])
    assert (dataset[Sample(1, 9)]["noise"] != dataset[Sample(1, 10)]["noise"]).all()
    assert (
        ClassificationDataset(images, Noisy(), seed=6)[Sample(1, 9)]["noise"]
        != dataset[Sample(1, 9)]["noise"]
    ).all()


def test_an_unreadable_image_is_an_error_in_evaluation(images, tmp_path):
    reason = r"an empty file \(0 bytes\) \(image 3 of the list, from 0\)\. Put a readable file .*-resume auto"
    with pytest.raises(ImageError, match=f"3.png: {reason}"):
        ClassificationDataset(images, Noisy())[Sample(3, 3)]


def test_training_takes_the_next_image_and_records_the_unreadable_one(images, tmp_path):
    bad_images = tmp_path / "bad.txt"
    dataset = ClassificationDataset(images, Noisy(), bad_images=bad_images)
    assert dataset[Sample(2, 8)]["index"] == 2
    assert not bad_images.exists()
    assert dataset.unreadable() == set()
    item = dataset[Sample(3, 9)]
    assert (item["index"], item["label"], item["image"][0, 0]) == (5, 0, 100)
    np.testing.assert_array_equal(item["noise"], dataset[Sample(5, 9)]["noise"])
    assert bad_images.read_text().splitlines() == [
        f"{tmp_path / f'{k}.png'}\tan empty file (0 bytes)" for k in (3, 4)
    ]
    dataset[Sample(4, 10)]
    assert len(bad_images.read_text().splitlines()) == 3
    assert dataset.unreadable() == {str(tmp_path / f"{k}.png") for k in (3, 4)}


def test_the_image_after_the_last_is_the_first(images, tmp_path):
    (tmp_path / "11.png").unlink()
    item = ClassificationDataset(images, Noisy(), bad_images=tmp_path / "bad.txt")[Sample(11, 0)]
    assert item["index"] == 0
    assert "11.png\tno such file" in (tmp_path / "bad.txt").read_text()


def test_ten_unreadable_images_in_a_row_are_an_error(tmp_path):
    images = ImageList.from_names(tmp_path, [f"{k}.png" for k in range(20)])
    with pytest.raises(ImageError, match=r"14.png: no such file; and so are the 9 images before it"):
        ClassificationDataset(images, Noisy(), bad_images=tmp_path / "bad.txt")[Sample(5, 0)]
    assert len((tmp_path / "bad.txt").read_text().splitlines()) == 10


def test_errors_of_the_transform_are_not_taken_for_unreadable_images(images, tmp_path):
    with pytest.raises(ValueError, match="a mistake of ours"):
        ClassificationDataset(images, Broken(), bad_images=tmp_path / "bad.txt")[Sample(0, 0)]
    assert not (tmp_path / "bad.txt").exists()


def test_open_options_reach_the_decoder(images):
    with pytest.raises(ImageError, match="20 x 16 pixels are more than DATA.MAX_PIXELS=10"):
        ClassificationDataset(images, Noisy(), open_options={"max_pixels": 10})[Sample(0, 0)]


def config(root, **keys):
    keys = {"DATA__MAX_PIXELS": 1000, "MODEL__NUM_CLASSES": 1, "SEED": 17, "DATA__IMAGE_SIZE": 8} | keys
    keys |= {"DATA__DATASET": "folder", "DATA__EXIF_ORIENTATION": True, "TRAIN__AUTO_AUGMENT": ""}
    return tiny_config(root, **keys, TRAIN__COLOR_JITTER=0.0)


def test_build_dataset(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (20, 16), "gray").save(tmp_path / split / "cat" / "a.png")
    train = build_dataset(config(tmp_path), "train", bad_images=tmp_path / "bad.txt")
    val = build_dataset(config(tmp_path), "val")
    assert isinstance(train.transform, TrainTransform) and isinstance(val.transform, EvalTransform)
    assert train.seed == 17 and train.bad_images == tmp_path / "bad.txt" and val.bad_images is None
    assert train.open_options == {"exif_orientation": True, "max_pixels": 1000}
    assert val.describe(Sample(0, 0)) == str(tmp_path / "val/cat/a.png")
    assert set(train[Sample(0, 0)]) == {"image", "erase", "label", "index"}
    assert len(val) == 1


def test_scaled_decoding_is_for_training_images_and_can_be_switched_off(tmp_path, monkeypatch):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (640, 480), "gray").save(tmp_path / split / "cat" / "a.jpg")
    decoded, decode = [], images_module.ImageFile.decode

    def recorded(*args):
        image = decode(*args)
        decoded.append(image.size)
        return image

    monkeypatch.setattr(images_module.ImageFile, "decode", recorded)
    for split, is_on in (("train", True), ("train", False), ("val", True)):
        settings = config(tmp_path, DATA__MAX_PIXELS=640 * 480, DATA__SCALED_DECODING=is_on)
        build_dataset(settings, split)[Sample(0, 3)]
    assert decoded == [(80, 60), (640, 480), (640, 480)]
