"""The image processor: files, published names, tensors. `tests/predict/test_image_processor.py` compares the pixels."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.transformers import BeitFeatureExtractor, BeitImageProcessor

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 57, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
SQUASHED = {"size": {"height": 24, "width": 16}, "do_center_crop": False, "resample": 2}
CROPPED = {"size": {"shortest_edge": 20}, "crop_size": 16, "image_std": [0.2, 0.3, 0.4]}


def test_tensors_are_those_of_paddle_under_both_names():
    processor = BeitFeatureExtractor(**SQUASHED)
    features = processor(images=IMAGE, return_tensors="pt")
    assert isinstance(features.pixel_values, paddle.Tensor)
    assert features["pixel_values"].shape == [1, 3, 24, 16]
    own = beit.BeitImageProcessor(**SQUASHED)(IMAGE, return_tensors="pd")
    np.testing.assert_array_equal(features.pixel_values.numpy(), own.pixel_values.numpy())
    labels = processor(IMAGE, np.zeros((40, 57), np.uint8), return_tensors="pt", label_resample=0)
    moved = labels.to("cpu", dtype=paddle.float64)
    assert (moved.pixel_values.dtype, moved.labels.dtype) == (paddle.float64, paddle.int64)


@pytest.mark.parametrize("options", [SQUASHED, CROPPED])
def test_a_processor_is_read_as_it_was_written(options, tmp_path):
    processor = BeitImageProcessor(**options)
    processor.save_pretrained(tmp_path / "new")
    again = BeitImageProcessor.from_pretrained(tmp_path / "new")
    assert json.dumps(again.to_dict()) == json.dumps(processor.to_dict())
    other = BeitImageProcessor.from_pretrained(tmp_path / "new" / "preprocessor_config.json", size=32)
    assert other.size == {"height": 32, "width": 32} and other.crop_size == processor.crop_size


@pytest.mark.peers
@pytest.mark.parametrize(
    ("options", "name"), [(SQUASHED, "BeitImageProcessorPil"), (CROPPED, "CLIPImageProcessorPil")]
)
def test_transformers_reads_what_is_written(options, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    BeitImageProcessor(**options).save_pretrained(tmp_path)
    kind = json.loads((tmp_path / "preprocessor_config.json").read_text())["image_processor_type"]
    assert name == f"{kind}Pil"
    theirs = getattr(transformers, name).from_pretrained(tmp_path)
    expected = theirs(IMAGE, return_tensors="np")["pixel_values"]
    found = BeitImageProcessor.from_pretrained(tmp_path)(IMAGE, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_published_names_state_their_processing():
    base = BeitImageProcessor.from_pretrained("microsoft/beit-base-patch16-384")
    assert base.size == {"height": 384, "width": 384} and not base.do_center_crop
    assert (base.resample, list(base.image_mean), base.do_reduce_labels) == (2, [0.5] * 3, False)
    ade = BeitImageProcessor.from_pretrained("microsoft/beit-base-finetuned-ade-640-640")
    assert ade.size == {"height": 640, "width": 640} and ade.do_reduce_labels
    unilm = BeitImageProcessor.from_pretrained("beitv2_base_patch16_224_pt1k_ft21kto1k")
    assert unilm.size == {"shortest_edge": 256} and unilm.crop_size == {"height": 224, "width": 224}
    assert unilm.image_mean[0] == pytest.approx(0.485)


def test_what_cannot_be_done_is_refused(tmp_path):
    file = tmp_path / "preprocessor_config.json"
    for content, message in (
        ({"do_pad": True}, "asks for do_pad = True, which this processor does not do"),
        ({"crop_pct": 0.9}, "asks for crop_pct = 0.9"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            BeitImageProcessor.from_pretrained(tmp_path)
    file.write_text(json.dumps({"do_pad": False, "do_convert_rgb": True, "image_processor_type": "x"}))
    assert BeitImageProcessor.from_pretrained(tmp_path).do_resize
    with pytest.raises(ValueError, match="unknown argument 'sise'"):
        BeitImageProcessor.from_pretrained(tmp_path, sise=3)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        BeitImageProcessor.from_pretrained(tmp_path / "missing")
    with pytest.raises(ValueError, match="does not state how images are resized"):
        BeitImageProcessor.from_pretrained("beit_base_patch16_224_pt22k")
    with pytest.raises(ValueError, match="no processor that resizes within two limits"):
        BeitImageProcessor(size={"shortest_edge": 8, "longest_edge": 16}).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="resized with Pillow here"):
        BeitImageProcessor.from_pretrained(tmp_path, use_fast=True)


@pytest.mark.parametrize("kind", [beit.BeitImageProcessor, BeitImageProcessor])
def test_a_file_of_weights_is_not_that_of_a_processor(kind, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)))
    with pytest.raises(
        ValueError, match=r"model\.safetensors is not the file of an image processor; name a folder"
    ):
        kind.from_pretrained(tmp_path / "model.safetensors")
