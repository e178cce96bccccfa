"""`inference_model` and `extract_feat`: numbers against Pillow and NumPy, all types of inputs."""

from __future__ import annotations

import io

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.data.dataset import build_dataset
from beit.data.images import ImageError
from beit.data.sampler import Sample
from beit.models.load import load_pretrained
from beit.predict.inference import extract_feat, inference_model, load_predictor
from tests.checkpoint import publishers
from tests.reference_numpy import classify, encode, softmax
from tests.tiny import tiny_config, write_dataset

NAMES = ("red", "green", "blue")
UNILM = publishers.unilm_classifier(np.random.default_rng(0))  # 12 pixels, 5 classes


@pytest.fixture
def run(tmp_path):
    """The output folder of a run: weights, config, class names; the images are beside it."""
    data = write_dataset(tmp_path / "data")
    folder = tmp_path / "run"
    folder.mkdir()
    keys = {"DATA__IMAGENET_MEAN": [0.4, 0.5, 0.6], "DATA__INTERPOLATION": "bilinear", "DATA__CROP_PCT": 0.8}
    config = tiny_config(data, folder, **keys)
    paddle.seed(3)
    model = beit.build_beit(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.3)
    write(folder / "model.pdparams", {name: value.numpy() for name, value in model.state_dict().items()})
    (folder / "config.yaml").write_text(beit.config.dump(config))
    (folder / "class_names.txt").write_text("\n".join(NAMES))
    return folder


@pytest.fixture
def image_file(tmp_path):
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(1).integers(0, 256, (30, 44, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def published(tmp_path):
    """A file in PaddleViT's format, which implies the preprocessing of BEiT v1."""
    path = tmp_path / "weights.pdparams"
    write(path, publishers.paddlevit(UNILM))
    return path


def test_a_file_without_config_gives_the_scores_of_the_reference(published, image_file):
    """Architecture, mean, std and crop are derived from the file: 12 / 0.9 = 13 pixels, then the center."""
    result = inference_model(published, image_file, topk=2)
    with Image.open(image_file) as image:
        resized = np.asarray(image.resize((13 * 44 // 30, 13), Image.Resampling.BICUBIC), np.float64)
    left = round((resized.shape[1] - 12) / 2)
    pixels = resized[0:12, left : left + 12]  # round(0.5) is 0
    logits = classify(UNILM, (pixels / 255 - 0.5).transpose(2, 0, 1)[None] / 0.5, 3)[0]
    np.testing.assert_allclose(result["pred_scores"], softmax(logits), rtol=1e-4)
    order = np.argsort(-logits)
    assert result["pred_label"] == order[0] == result["topk"][0]["label"]
    assert [row["label"] for row in result["topk"]] == list(order[:2])
    assert result["pred_score"] == pytest.approx(softmax(logits)[order[0]], rel=1e-4)
    assert result["pred_class"] == f"class {order[0]}" and result["image"] == str(image_file)


def test_a_run_predicts_with_the_preprocessing_of_its_evaluation(run, tmp_path):
    """The input is that of the validation data set, and the class names are those of the run."""
    config = beit.get_config(run / "config.yaml")
    dataset = build_dataset(config, "val")
    predictor = load_predictor(run)
    batch = np.stack([dataset[Sample(k, k)]["image"] for k in range(3)]).astype(np.float32)
    mean, std = (
        np.array(value, np.float32).reshape(1, 3, 1, 1) for value in ((0.4, 0.5, 0.6), (0.5, 0.5, 0.5))
    )
    files = [dataset.images.path(k) for k in range(3)]
    images = [Image.open(file).convert("RGB") for file in files]
    np.testing.assert_allclose(predictor.tensor(images).numpy(), (batch / 255 - mean) / std, atol=1e-6)
    results = inference_model(run / "model.pdparams", files, topk=3)
    assert [{row["class"] for row in result["topk"]} for result in results] == [set(NAMES)] * 3
    assert results[0]["pred_class"] == NAMES[results[0]["pred_label"]]


def test_all_types_of_inputs_give_the_same_scores(run, image_file, tmp_path):
    with Image.open(image_file) as image:
        pillow = image.convert("RGB")
    array = np.asarray(pillow)
    expected = inference_model(run, image_file)["pred_scores"]
    content = image_file.read_bytes()
    for single in (
        str(image_file), pillow, array, content, io.BytesIO(content), array / 255,
        (array / 255).astype(np.float32), paddle.to_tensor(array), np.dstack([array, np.full((30, 44), 255, np.uint8)]),
    ):  # fmt: skip
        np.testing.assert_array_equal(inference_model(run, single)["pred_scores"], expected)
    with image_file.open("rb") as file:
        file.read(20)  # it is read from its beginning
        np.testing.assert_array_equal(inference_model(run, file)["pred_scores"], expected)
    folder = tmp_path / "folder"
    (folder / "deeper").mkdir(parents=True)
    pillow.save(folder / "b.png")
    pillow.save(folder / "deeper" / "a.png")
    for several in (
        folder, f"{folder}/**/*.png", [image_file, array], [folder], np.stack([array, array]),
        [content, io.BytesIO(content)], (pillow, paddle.to_tensor(array)),
    ):  # fmt: skip
        results = inference_model(run, several, batch_size=1)
        assert len(results) == 2
        np.testing.assert_allclose(results[1]["pred_scores"], expected, rtol=1e-5)
    gray = inference_model(run, pillow.convert("L"))["pred_scores"]
    for single in (array_of := np.asarray(pillow.convert("L")), array_of[..., None], array_of / 255):
        np.testing.assert_array_equal(inference_model(run, single)["pred_scores"], gray)
    assert [result["image"] for result in inference_model(run, folder)] == [
        str(folder / "b.png"), str(folder / "deeper" / "a.png"),
    ]  # fmt: skip


def test_features_are_the_normalized_mean_of_the_patch_tokens(published, image_file):
    model = load_predictor(published).model
    images = np.random.default_rng(2).standard_normal((2, 3, 12, 12)).astype(np.float32)
    tokens = encode(UNILM, images, 3)
    pooled = tokens[:, 1:].mean(1)
    centered = pooled - pooled.mean(-1, keepdims=True)
    expected = (
        centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6) * UNILM["fc_norm.weight"]
        + UNILM["fc_norm.bias"]
    )
    (features,) = model.extract_feat(paddle.to_tensor(images))  # a tuple, as in mmpretrain
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-3, atol=1e-4)
    assert extract_feat(published, image_file).shape == (24,)
    assert extract_feat(published, [image_file, image_file]).shape == (2, 24)


def test_unknown_preprocessing_is_an_error_that_says_what_to_pass(published, image_file, tmp_path):
    plain = tmp_path / "plain.pdparams"
    write(
        plain, {name: value.numpy() for name, value in load_predictor(published).model.state_dict().items()}
    )
    with pytest.raises(ValueError, match=r"mean, std, crop_pct missing .*--mean 0.5 0.5 0.5 --std"):
        inference_model(plain, image_file)
    preprocessing = beit.Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.9)
    given = inference_model(plain, image_file, preprocessing=preprocessing)["pred_scores"]
    np.testing.assert_array_equal(given, inference_model(published, image_file)["pred_scores"])


TARGETS = [
    (f"converted.{end}", form)
    for end in ("safetensors", "pdparams")
    for form in ("canonical", "timm", "unilm")
]


@pytest.mark.parametrize(("target", "form"), [*TARGETS, ("folder", "timm")])
def test_conversion_keeps_preprocessing_and_class_names(run, image_file, tmp_path, target, form):
    convert(run / "model.pdparams", tmp_path / target, publisher=form)
    moved, original = load_predictor(tmp_path / target), load_predictor(run)
    assert (moved.preprocessing.mean, moved.preprocessing.crop_pct) == ((0.4, 0.5, 0.6), 0.8)
    assert moved.preprocessing.interpolation == "bilinear"
    if target != "folder":
        assert moved.class_names == NAMES
    first, second = (inference_model(model, image_file)["pred_scores"] for model in (moved, original))
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_squash_and_exif_orientation(published, tmp_path):
    """A conversion keeps how images are resized; EXIF orientation is applied if the preprocessing says so."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8))
    convert(published, tmp_path / "cropped", publisher="huggingface")
    np.testing.assert_array_equal(
        load_predictor(tmp_path / "cropped").view(image), load_predictor(published).view(image)
    )
    sidecar = published.with_suffix(".pretrained_cfg.json")
    sidecar.write_text('{"pretrained_cfg": {"crop_mode": "squash", "crop_pct": 1.0}}')
    convert(published, tmp_path / "squashed", publisher="huggingface")
    sidecar.unlink()
    np.testing.assert_array_equal(
        load_predictor(tmp_path / "squashed").view(image), image.resize((12, 12), Image.Resampling.BICUBIC)
    )
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    plain = load_predictor(published)
    turned = load_predictor(published, preprocessing=beit.Preprocessing(exif_orientation=True))
    upright = np.ascontiguousarray(np.asarray(image)[::-1, ::-1])
    np.testing.assert_array_equal(
        inference_model(turned, tmp_path / "turned.png")["pred_scores"],
        inference_model(plain, upright)["pred_scores"],
    )


def test_loading_weights_sets_the_preprocessing_of_the_model(published):
    """A model with the head of the file has its preprocessing, a model with a new head that of the config."""
    options = [
        "DATA.IMAGE_SIZE",
        12,
        "MODEL.PATCH_SIZE",
        4,
        "MODEL.EMBED_DIM",
        24,
        "MODEL.DEPTH",
        2,
        "MODEL.NUM_HEADS",
        3,
    ]
    options += ["DATA.IMAGENET_MEAN", [0.1, 0.2, 0.3], "DATA.CROP_PCT", 0.7]
    model = beit.build_beit(beit.get_config(None, [*options, "MODEL.NUM_CLASSES", 5]))
    assert model.preprocessing.mean == (0.1, 0.2, 0.3)
    load_pretrained(model, published)
    assert (model.preprocessing.mean, model.preprocessing.crop_pct) == ((0.5, 0.5, 0.5), 0.9)
    fresh = beit.build_beit(beit.get_config(None, [*options, "MODEL.NUM_CLASSES", 2]))
    load_pretrained(fresh, published)
    assert (fresh.preprocessing.mean, fresh.class_names) == ((0.1, 0.2, 0.3), None)
    model.train()
    inference_model(model, np.zeros((9, 9, 3), np.uint8))
    assert model.training  # left as it was


def test_wordnet_identifiers_become_class_names(run, image_file):
    (run / "class_names.txt").write_text("n01440764\nn01443537\nn02510455\n")
    assert load_predictor(run).class_names[2].startswith("giant panda")
    names = load_predictor(run, class_names=("a", "b", "c")).class_names
    assert names == ("a", "b", "c")
    with pytest.raises(ValueError, match="1000 class names for a model with 3 classes"):
        load_predictor(run, class_names="imagenet-1k")


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.full((4, 4, 3), 7, np.float32), "with values from 7 to 7; expected floats from 0 to 1"),
        (np.full((4, 4), np.nan), "with values from nan to nan; expected floats from 0 to 1"),
        (np.zeros((4, 4, 3), np.uint16), "array uint16 .* expected uint8 from 0 to 255"),
        (
            np.zeros((3, 4, 5), np.uint8),
            r"the channels are the first axis: pass `array.transpose\(1, 2, 0\)`",
        ),
        (np.zeros((0, 4, 3), np.uint8), r"array uint8 \[0, 4, 3\] as image; expected \[height, width\]"),
        (5, "got int as image; expected a path, the bytes"),
        ([{}], "got dict as image; expected a path, the bytes"),
        ([], "no images were given"),
        (b"text", "^an image of 4 bytes: no image in one of the formats"),
        (io.StringIO("text"), "an open file is open in text mode; open images with mode 'rb'"),
    ],
)
def test_wrong_images(run, image, said):
    with pytest.raises(ValueError, match=said):
        inference_model(run, image)


def test_wrong_paths_of_images(run, image_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist; name an image"):
        inference_model(run, tmp_path / "no.png")
    with pytest.raises(FileNotFoundError, match="no file matches the pattern"):
        inference_model(run, f"{tmp_path}/*.webp")
    (tmp_path / "text.png").write_text("<html>")
    with pytest.raises(ImageError, match="HTML page"):
        inference_model(run, [image_file, tmp_path / "text.png"])
    with pytest.raises(ValueError, match="topk=0"):
        inference_model(run, image_file, topk=0)


def test_models_that_are_missing(run, image_file, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist: it is not a file, a folder or a name"):
        inference_model(tmp_path / "no.pdparams", image_file)
    with pytest.raises(FileNotFoundError, match="similar: .*beit_base_patch16_224"):
        inference_model("beit_bse_patch16_224", image_file)
    (run / "model.pdparams").unlink()
    with pytest.raises(FileNotFoundError, match="holds none of model.pdparams"):
        inference_model(run, image_file)


def test_models_without_classes(image_file, tmp_path):
    write(tmp_path / "mim.pth.pdparams", publishers.unilm_mim(np.random.default_rng(0), version=2))
    with pytest.raises(ValueError, match="its config, which states MODEL.EARLY_LAYERS"):
        inference_model(tmp_path / "mim.pth.pdparams", image_file)
    backbone = {name: value for name, value in UNILM.items() if not name.startswith("head.")}
    write(tmp_path / "beit_base.pdparams", publishers.paddlevit(backbone))
    with pytest.raises(ValueError, match="only features: use beit.extract_feat"):
        inference_model(tmp_path / "beit_base.pdparams", image_file)
    assert extract_feat(tmp_path / "beit_base.pdparams", image_file).shape == (24,)


def test_another_image_size_is_that_of_a_model_built_for_it(run, image_file):
    size = (24, 32)
    config = beit.config.with_options(beit.get_config(run / "config.yaml"), ["DATA.IMAGE_SIZE", list(size)])
    larger = inference_model(run, image_file, image_size=size)["pred_scores"]
    np.testing.assert_array_equal(
        larger, inference_model(run / "model.pdparams", image_file, config=config)["pred_scores"]
    )
    assert np.abs(larger - inference_model(run, image_file)["pred_scores"]).max() > 1e-3
    predictor = load_predictor(run, image_size=24)
    assert predictor.image_size == (24, 24) and predictor.view(Image.open(image_file)).size == (24, 24)
    np.testing.assert_array_equal(
        extract_feat(run, image_file, image_size=24), extract_feat(predictor, image_file)
    )
    for built in (predictor, predictor.model):
        with pytest.raises(ValueError, match="image_size=24 is for weights that are loaded"):
            load_predictor(built, image_size=24)
    with pytest.raises(ValueError, match=r"DATA\.IMAGE_SIZE"):
        load_predictor(run, image_size=20)


def test_a_predictor_takes_no_other_arguments(run):
    predictor = load_predictor(run)
    assert load_predictor(predictor) is predictor
    given = {
        "key": "ema",
        "config": run / "config.yaml",
        "preprocessing": beit.Preprocessing(crop_pct=0.5),
        "class_names": ("a", "b", "c"),
        "engine": "onnxruntime",
        "precision": "int8",
    }
    for name, value in given.items():
        arguments = {"engine": "openvino", name: value} if name == "precision" else {name: value}
        with pytest.raises(
            ValueError, match="is for weights that are loaded; this Classifier is built already"
        ):
            load_predictor(predictor, **arguments)
    for name in ("key", "config"):
        with pytest.raises(ValueError, match=f"^{name}=.*this Beit is built already"):
            load_predictor(predictor.model, **{name: given[name]})
