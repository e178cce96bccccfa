"""Photos of phones are upright everywhere: in training, evaluation, prediction and exported models."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import ExifTags, Image

import beit
from beit.checkpoint.convert import convert
from beit.data import images
from beit.data.dataset import build_dataset
from beit.data.folders import walk_files
from beit.data.images import EXTENSIONS, ImageError, open_image
from beit.deploy.description import read_description
from beit.deploy.export import export
from beit.preprocessing import exif_orientation_of
from beit.tools import check
from beit.train.run import run
from tests.tiny import TINY, options, tiny_config, write_dataset

UPRIGHT = np.zeros((20, 30, 3), np.uint8)
UPRIGHT[:5, :, 0], UPRIGHT[:, :4, 1] = 255, 180


def phone_photo(path):
    """An image that is stored lying on its side, with the tag that says so."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(np.rot90(UPRIGHT)).save(path, exif=exif)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = write_dataset(tmp_path_factory.mktemp("data"))
    phone_photo(root / "my images" / "train_0.png")
    return root


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"DATA__DATASET": "folder"}, True),
        ({"DATA__DATASET": "flat"}, True),
        ({"DATA__DATASET": "image_mask"}, True),
        ({"DATA__DATASET": "imagenet2012", "MODEL__NUM_CLASSES": 3}, True),  # lists of make-lists
        ({"DATA__DATASET": "imagenet2012", "MODEL__NUM_CLASSES": 1000}, None),
        ({"DATA__DATASET": "imagenet2012", "MODEL__NUM_CLASSES": 21841}, None),
        ({"DATA__DATASET": "test_folder", "MODEL__NUM_CLASSES": 1000}, None),
        (
            {"DATA__DATASET": "folder", "MODEL__NUM_CLASSES": 1000},
            True,
        ),  # docs/imagenet.md says so of these three
        ({"DATA__DATASET": "webdataset", "MODEL__NUM_CLASSES": 1000}, True),
        ({"DATA__DATASET": "parquet", "MODEL__NUM_CLASSES": 1000}, True),
        ({"DATA__DATASET": "ade20k"}, None),
        ({"DATA__DATASET": "ade20k", "DATA__EXIF_ORIENTATION": True}, True),
        ({"DATA__DATASET": "folder", "DATA__EXIF_ORIENTATION": False}, False),
    ],
)
def test_images_are_turned_but_in_published_protocols(keys, expected):
    assert exif_orientation_of(tiny_config(**keys)) is expected


def test_the_published_evaluation_reads_images_as_they_are_stored(data):
    own, published = (tiny_config(data, MODEL__NUM_CLASSES=classes) for classes in (3, 1000))
    for split in ("train", "val"):
        assert build_dataset(own, split).open_options["exif_orientation"] is True
        assert build_dataset(published, split).open_options["exif_orientation"] is False
    np.testing.assert_array_equal(build_dataset(own, "train").original(0), UPRIGHT)
    np.testing.assert_array_equal(build_dataset(published, "train").original(0), np.rot90(UPRIGHT))


def test_prediction_turns_whatever_form_a_photo_has(tmp_path):
    path = phone_photo(tmp_path / "photo.png")
    classifier = beit.load_predictor(beit.build_beit(tiny_config()))
    assert classifier.preprocessing.exif_orientation is True
    with Image.open(path) as opened:
        for form in (path, path.read_bytes(), io.BytesIO(path.read_bytes()), opened):
            np.testing.assert_array_equal(classifier.open(form), UPRIGHT)
    np.testing.assert_array_equal(classifier.open(Image.fromarray(UPRIGHT)), UPRIGHT)
    processor = beit.BeitImageProcessor(
        do_resize=False, do_center_crop=False, do_normalize=False, do_rescale=False
    )
    np.testing.assert_array_equal(processor(path)["pixel_values"][0].transpose(1, 2, 0), UPRIGHT)


@pytest.mark.parametrize("stated", [None, False])
def test_the_setting_is_stored_with_weights_and_exports(data, tmp_path, stated):
    run(tiny_config(data, tmp_path / "run", DATA__EXIF_ORIENTATION=stated, TRAIN__NUM_EPOCHS=1))
    for target in ("alone.safetensors", "alone.pdparams"):
        convert(tmp_path / "run", tmp_path / target)
        model = beit.load_predictor(tmp_path / target)
        assert model.preprocessing.exif_orientation is (stated is None)
    photo = data / "my images" / "train_0.png"
    seen = UPRIGHT if stated is None else np.rot90(UPRIGHT)
    np.testing.assert_array_equal(model.open(photo), seen)
    export(model, tmp_path / "exported", [photo])
    description = read_description(tmp_path / "exported")
    np.testing.assert_array_equal(description.open(photo), description.open(seen.copy()))


def test_check_says_that_images_are_turned(data, tmp_path, capsys):
    opts = map(str, options(TINY))
    check.main([f"-data_path={data}", f"-output={tmp_path}", "--skip-step", "-opts", *opts])
    assert "1 of 24 images have an EXIF orientation, by which they are turned" in capsys.readouterr().out


def test_images_without_a_decoder_are_counted_and_the_extra_is_named(tmp_path, monkeypatch):
    advice = 'pip install "beit-paddle[heif]"'
    monkeypatch.setattr("beit.data.folders.UNREAD", {".heic": advice})
    monkeypatch.setattr(images, "FORMATS", ("JPEG", "PNG"))
    for name in ("IMG_1.HEIC", "IMG_2.heic"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "notes.doc").touch()
    others, heic = walk_files(tmp_path, EXTENSIONS - {".heic"}).notes(tmp_path)
    assert others.endswith("1 file(s) left out, not an image by their ending: 1 .doc (notes.doc)")
    example = next(name for name in ("IMG_1.HEIC", "IMG_2.heic") if f"({name})" in heic)
    assert heic == f"{tmp_path}: 2 .heic image(s) left out ({example}), which are not decoded here: {advice}"
    with pytest.raises(ImageError, match=r'does not decode HEIF images: .*pip install "beit-paddle\[heif\]"'):
        open_image(tmp_path / "IMG_1.HEIC")


def test_heic_photos_are_read_with_the_extra(tmp_path):
    pytest.importorskip("pillow_heif", reason="of the extra heif")
    path = phone_photo(tmp_path / "photo.png")
    with Image.open(path) as photo:
        photo.save(tmp_path / "IMG_1.HEIC", quality=-1)
    assert ".heic" in EXTENSIONS
    shown = np.asarray(open_image(tmp_path / "IMG_1.HEIC", exif_orientation=True)).astype(int)
    assert shown.shape == UPRIGHT.shape and np.abs(shown - UPRIGHT).mean() < 8  # lossy at the sharp edges
    shutil.copy(tmp_path / "IMG_1.HEIC", tmp_path / "cut.heic")
    (tmp_path / "cut.heic").write_bytes((tmp_path / "cut.heic").read_bytes()[:200])
    with pytest.raises(ImageError):
        open_image(tmp_path / "cut.heic")
