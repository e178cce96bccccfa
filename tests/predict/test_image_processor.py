"""`BeitImageProcessor` against transformers.

`image_processor_golden.npz` holds what transformers 4.57.6 (Pillow 13.0, NumPy 2.3) returned for a random image of
13 x 18 pixels and its label map, for each entry of its `cases` (options by name); of the 224 x 224 defaults every 31st
row and 29th column.
"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.data.images import ImageError
from beit.data.segmentation import SegmentEvalTransform
from beit.data.transforms import EvalTransform
from beit.predict.image_processor import BeitImageProcessor

GOLDEN = np.load(Path(__file__).parent / "image_processor_golden.npz")
CASES = json.loads(str(GOLDEN["cases"]))
IMAGE, MAP = GOLDEN["picture"], GOLDEN["map"]


def process(processor, *args, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="label maps are resized")
        return processor(*args, **options)


@pytest.mark.parametrize("case", CASES)
def test_results_equal_stored_ones_of_transformers(case):
    image = GOLDEN["shares"] if case.startswith("shares") else IMAGE
    result = process(BeitImageProcessor(**CASES[case]), image, MAP)
    values, labels = result["pixel_values"][0], result.labels[0]
    if case == "defaults":
        assert values.shape == (3, 224, 224) and labels.shape == (224, 224)
        values, labels = values[:, ::31, ::29], labels[::31, ::29]
    expected = GOLDEN[f"{case}/pixel_values"]
    assert values.dtype == expected.dtype
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, GOLDEN[f"{case}/labels"])


def test_options_of_the_call_replace_those_of_the_constructor():
    processor = BeitImageProcessor()
    result = processor(IMAGE, **CASES["rectangle"])
    np.testing.assert_allclose(result["pixel_values"][0], GOLDEN["rectangle/pixel_values"], atol=1e-6)
    assert processor.size == {"height": 256, "width": 256}


@pytest.mark.parametrize(
    "give",
    [
        lambda p: Image.fromarray(p),
        lambda p: [Image.fromarray(p)],
        lambda p: p.transpose(2, 0, 1),
        lambda p: p[None],
        lambda p: paddle.to_tensor(p),
        lambda p: [p],
    ],
)
def test_types_of_inputs_and_outputs(give):
    processor = BeitImageProcessor(**CASES["no crop"])
    expected = GOLDEN["no crop/pixel_values"]
    result = processor(give(IMAGE), return_tensors="pd")
    assert result.pixel_values.shape == [1, 3, 9, 12]
    np.testing.assert_allclose(result.pixel_values.numpy()[0], expected, atol=1e-6)
    last = processor(give(IMAGE), return_tensors="np", data_format="channels_last").pixel_values
    np.testing.assert_allclose(last[0], expected.transpose(1, 2, 0), atol=1e-6)


def test_files_bytes_and_open_files(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    processor = BeitImageProcessor(**CASES["no crop"])
    with path.open("rb") as file:
        for image in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file):
            for images, count in ((image, 1), ([image, path], 2)):
                values = processor(images, return_tensors="np").pixel_values
                assert len(values) == count
                np.testing.assert_allclose(values[0], GOLDEN["no crop/pixel_values"], atol=1e-6)
    with pytest.raises(ImageError, match="no.png: no such file"):
        processor(tmp_path / "no.png")
    with pytest.raises(ValueError, match="got int as images; expected a path"):
        processor(7)
    gray = Image.fromarray(IMAGE[..., 0])
    gray.save(path)
    maps = processor(IMAGE, path, label_resample=0)["labels"][0]
    np.testing.assert_array_equal(maps, processor(IMAGE, gray, label_resample=0)["labels"][0])
    with pytest.raises(ValueError, match=r"a label map \[.*, 3\]; expected \[H, W\]"):
        processor(IMAGE, Image.fromarray(IMAGE))


@pytest.mark.parametrize("form", ["[H, W]", "[H, W, 1]", "[1, H, W]", "[B, H, W, 1]", "0 to 1"])
def test_gray_arrays_get_the_channels_of_the_mean(form):
    processor, gray = BeitImageProcessor(size=8, do_center_crop=False), IMAGE[..., 0]
    options = {"do_rescale": False} if form == "0 to 1" else {}
    given = {
        "[H, W]": gray, "[H, W, 1]": gray[..., None], "[1, H, W]": gray[None], "[B, H, W, 1]": gray[None, ..., None],
        "0 to 1": gray / 255,
    }[form]  # fmt: skip
    expected = processor(Image.fromarray(gray), return_tensors="np").pixel_values
    found = processor(given, return_tensors="np", **options).pixel_values
    assert found.shape == (1, 3, 8, 8)
    np.testing.assert_allclose(found, expected, atol=2 / 255)
    one = processor(given, return_tensors="np", image_mean=0.5, image_std=0.5, **options).pixel_values
    np.testing.assert_array_equal(one[0], found[0, :1])


def test_rgba_arrays_are_drawn_on_white():
    rgba = np.dstack([IMAGE, np.full(IMAGE.shape[:2], 51, np.uint8)])
    processor = BeitImageProcessor(size=8, do_center_crop=False)
    found = processor(rgba, return_tensors="np").pixel_values
    np.testing.assert_array_equal(found, processor(Image.fromarray(rgba), return_tensors="np").pixel_values)


def test_gray_and_rgb_images_in_one_batch():
    gray = Image.fromarray(IMAGE[..., 0])
    batch = BeitImageProcessor(size=8, do_center_crop=False)([gray, gray.convert("RGB")], return_tensors="np")
    np.testing.assert_array_equal(batch["pixel_values"][0], batch["pixel_values"][1])


def test_only_the_nearest_filter_keeps_the_class_numbers_of_label_maps():
    labels = np.where(np.arange(18) < 9, 0, 5).astype(np.uint8).repeat(13).reshape(18, 13).T
    processor = BeitImageProcessor(size=(9, 11), do_center_crop=False)
    with pytest.warns(UserWarning, match="mixes class numbers"):
        mixed = processor(IMAGE, labels)["labels"][0]
    assert set(np.unique(mixed)) > {0, 5}
    clean = processor(IMAGE, labels, label_resample=0)["labels"][0]
    assert set(np.unique(clean)) == {0, 5}


def test_the_nearest_filter_within_limits_keeps_all_channels():
    processor = BeitImageProcessor(
        size={"shortest_edge": 26, "longest_edge": 36}, resample=0, do_center_crop=False, do_rescale=False,
        do_normalize=False,
    )  # fmt: skip
    doubled = IMAGE.transpose(2, 0, 1).repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(processor(IMAGE)["pixel_values"][0], doubled)


def test_reduced_labels():
    processor = BeitImageProcessor(do_resize=False, do_center_crop=False, do_reduce_labels=True)
    labels = processor(IMAGE[:2, :4], np.array([[0, 1, 150, 255]] * 2, np.uint8))["labels"][0]
    np.testing.assert_array_equal(labels, [[255, 0, 149, 255]] * 2)
    # It does not change the image.
    np.testing.assert_array_equal(
        processor(IMAGE)["pixel_values"][0], processor(IMAGE, do_reduce_labels=False)["pixel_values"][0]
    )


def test_official_classification_protocol_equals_the_evaluation_transform():
    pixels = np.random.default_rng(1).integers(0, 256, (71, 97, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    expected = EvalTransform((32, 32), 0.875)(image)["image"]
    got = BeitImageProcessor.official(32)(image)["pixel_values"][0]
    np.testing.assert_allclose(got, (expected / 255 - 0.5) / 0.5, atol=1e-6)
    assert np.abs(got - BeitImageProcessor(size=36, crop_size=32)(image)["pixel_values"][0]).max() > 0.1


def test_official_segmentation_protocol_equals_the_evaluation_transform():
    pixels = np.random.default_rng(1).integers(0, 256, (71, 97, 3), dtype=np.uint8)
    labels = np.full((71, 97), 3, np.uint8)
    limits = (128, 64)
    expected = SegmentEvalTransform(limits)(Image.fromarray(pixels), labels)["image_0"]
    result = BeitImageProcessor.official_segmentation(limits)(pixels, labels)
    mean, std = (np.array(v).reshape(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    np.testing.assert_allclose(result["pixel_values"][0], (expected / 255 - mean) / std, atol=1e-5)
    assert result["labels"][0].shape == expected.shape[1:] and (result["labels"][0] == 2).all()


def test_post_processing_resizes_logits_and_takes_the_largest():
    logits = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype("float32"))
    processor = BeitImageProcessor()
    plain = processor.post_process_semantic_segmentation(logits)
    np.testing.assert_array_equal(plain[1].numpy(), logits.numpy()[1].argmax(0))
    for outputs in (logits, {"logits": logits}, SimpleNamespace(logits=logits)):
        first, second = processor.post_process_semantic_segmentation(outputs, [(8, 10), (4, 5)])
        assert first.shape == [8, 10]
        np.testing.assert_array_equal(second.numpy(), plain[1].numpy())
    # Half-pixel centers: doubling [0, 1] gives [0, 1/4, 3/4, 1].
    ramp = paddle.to_tensor(np.array([[[[0.0, 1.0]], [[0.5, 0.5]]]], "float32"))
    classes = processor.post_process_semantic_segmentation(ramp, [(1, 4)])[0]
    np.testing.assert_array_equal(classes.numpy(), [[1, 1, 0, 0]])


def test_from_pretrained_reads_a_transformers_folder(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "size": 640,
                "do_center_crop": False,
                "resample": 2,
                "reduce_labels": True,
                "feature": 1,
                "image_processor_type": "BeitImageProcessor",
                "do_convert_rgb": True,
                "data_format": None,
            }
        )
    )
    with pytest.warns(UserWarning, match="preprocessor_config.json states feature, which is not read"):
        processor = BeitImageProcessor.from_pretrained(tmp_path)
    assert processor.size == {"height": 640, "width": 640}
    assert (processor.resample, processor.do_center_crop, processor.do_reduce_labels) == (2, False, True)
    assert BeitImageProcessor(**processor.to_dict()).to_dict() == processor.to_dict()
    with pytest.raises(FileNotFoundError, match="preprocessor_config.json"):
        BeitImageProcessor.from_pretrained(tmp_path / "nothing")
    (tmp_path / "preprocessor_config.json").write_text('{"do_pad": true, "do_convert_rgb": false}')
    with pytest.raises(ValueError, match="asks for do_pad = True, which this processor does not do"):
        BeitImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        BeitImageProcessor.from_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list, expected an object"):
        BeitImageProcessor.from_pretrained(tmp_path)


def test_errors():
    processor = BeitImageProcessor()
    with pytest.raises(ValueError, match="unknown option 'do_crop'"):
        processor(IMAGE, do_crop=True)
    with pytest.raises(ValueError, match="return_tensors='pt'"):
        processor(IMAGE, return_tensors="pt")
    with pytest.raises(ValueError, match="is not an image"):
        processor(np.zeros((5, 5, 5), np.uint8))
    with pytest.raises(ValueError, match="expected whole numbers 0 to 255"):
        processor(IMAGE.astype(np.float32) - 300.5)
    with pytest.raises(ValueError, match="several sizes"):
        processor([IMAGE, IMAGE[:5]], do_resize=False, do_center_crop=False, return_tensors="np")
    with pytest.raises(ValueError, match=r"size \(1, 2, 3\)"):
        BeitImageProcessor(size=(1, 2, 3))
    for value in (-1, 256):
        with pytest.raises(ValueError, match=f"values from {value} to {value}; expected 0 to 255"):
            processor(IMAGE, np.full(IMAGE.shape[:2], value, np.int32))
    with pytest.raises(ValueError, match="1 target_sizes for 2 images"):
        processor.post_process_semantic_segmentation(paddle.zeros([2, 3, 4, 4]), [(4, 4)])
    with pytest.raises(AttributeError, match="nothing"):
        processor(IMAGE).nothing  # noqa: B018


@pytest.mark.peers
@pytest.mark.parametrize("case", CASES)
def test_results_equal_those_of_the_installed_transformers(case):
    transformers = pytest.importorskip("transformers")
    # Since version 5 the name without ending resizes with torchvision, if that is installed, with other rounding.
    kind = getattr(transformers, "BeitImageProcessorPil", transformers.BeitImageProcessor)
    options = {"size": 256, "do_center_crop": True, "crop_size": 224, **CASES[case]}
    theirs = kind(**options)(IMAGE.copy(), MAP.copy())
    ours = process(BeitImageProcessor(**options), IMAGE, MAP)
    np.testing.assert_allclose(ours["pixel_values"][0], np.asarray(theirs["pixel_values"][0]), atol=1e-6)
    np.testing.assert_array_equal(ours["labels"][0], np.asarray(theirs["labels"][0]))


def test_an_elongated_image_is_resized_whole_before_the_crop():
    """Computed whole it would have 131 billion pixels."""
    pixels = np.zeros((1, 2_000_000, 3), np.uint8)
    pixels[:, 999_990:1_000_010] = 200
    found = BeitImageProcessor.official(224).preprocess(
        pixels, do_rescale=False, do_normalize=False, input_data_format="channels_last"
    )
    assert (found["pixel_values"][0] == 200).all() and found["pixel_values"][0].shape == (3, 224, 224)
