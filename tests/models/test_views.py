"""Test-time augmentation in evaluation and prediction, against NumPy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.__main__ import main
from beit.data.transforms import EvalTransform
from beit.models.views import view_logits
from tests.reference_numpy import softmax
from tests.tiny import noise_images, randomize, tiny_beit, tiny_config, write_dataset


def test_five_crops_are_the_corners_and_the_center():
    pixels = np.random.default_rng(0).integers(0, 256, (31, 43, 3), np.uint8)
    transform = EvalTransform((16, 20), 0.8, Image.Resampling.BILINEAR, crops=5)
    found = transform(Image.fromarray(pixels))["image"]
    # 16 / 0.8 = 20 rows and 20 / 0.8 = 25 columns must be covered; 20 rows have 27 columns.
    resized = np.asarray(Image.fromarray(pixels).resize((27, 20), Image.Resampling.BILINEAR))
    height, width = resized.shape[:2]
    starts = [(0, 0), (0, width - 20), (height - 16, 0), (height - 16, width - 20)]
    starts.append((round((height - 16) / 2), round((width - 20) / 2)))
    expected = np.stack([resized[top : top + 16, left : left + 20] for top, left in starts])
    np.testing.assert_array_equal(found, expected.transpose(0, 3, 1, 2))
    assert len({crop.tobytes() for crop in found}) == 5
    center = replace(transform, crops=1)(Image.fromarray(pixels))["image"]
    np.testing.assert_array_equal(found[4], center)


def test_corners_of_an_elongated_image_are_those_of_the_whole_resized_image(monkeypatch):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 60, 3), np.uint8))
    transform = EvalTransform((16, 16), 0.8, crops=5)
    whole = transform(image)["image"]
    monkeypatch.setattr("beit.data.crops._WHOLE_PIXELS", 0)
    np.testing.assert_array_equal(transform(image)["image"], whole)


def test_the_softmax_of_averaged_logits_is_the_mean_of_the_probabilities():
    model = randomize(tiny_beit())
    views = np.stack([noise_images(seed, (12, 12)) for seed in range(5)], axis=1)
    all_views = [*views.transpose(1, 0, 2, 3, 4), *views[..., ::-1].transpose(1, 0, 2, 3, 4)]
    logits = [model(paddle.to_tensor(np.ascontiguousarray(view))).numpy() for view in all_views]
    found = view_logits(model, paddle.to_tensor(views), flip=True).numpy()
    expected = np.mean([[softmax(row) for row in rows] for rows in logits], axis=0)
    np.testing.assert_allclose([softmax(row) for row in found], expected, rtol=1e-4, atol=1e-6)
    one = paddle.to_tensor(all_views[0])
    np.testing.assert_array_equal(view_logits(model, one, flip=False).numpy(), model(one).numpy())


@pytest.fixture
def run(tmp_path):
    config = tiny_config(write_dataset(tmp_path / "data"), tmp_path / "run", DATA__CROP_PCT=0.7)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(beit.config.dump(config))
    paddle.save(randomize(beit.build_beit(config)).state_dict(), str(tmp_path / "run" / "model.pdparams"))
    return tmp_path / "run"


@pytest.mark.parametrize(("crops", "flip"), [(1, False), (1, True), (5, False), (5, True)])
def test_evaluation_and_prediction_average_over_the_same_views(run, tmp_path, crops, flip):
    options = {"test__crops": crops, "test__flip": flip}
    found = beit.validation_predictions(run, **options)
    images = [Image.fromarray(found.dataset.original(k)) for k in range(len(found.dataset))]
    plain = beit.load_predictor(run)
    results = plain.with_views(crops, flip)(images)
    np.testing.assert_allclose(found.scores, [row["pred_scores"] for row in results], rtol=1e-4, atol=1e-6)

    prepare = EvalTransform((16, 16), 0.7, Image.Resampling.BICUBIC, crops=crops)
    pixels = np.stack([prepare(image)["image"].reshape(-1, 3, 16, 16) for image in images], axis=1)
    views = [*pixels, *(pixels[..., ::-1] if flip else [])]
    mean = np.mean([softmax_rows(plain, view) for view in views], axis=0)
    np.testing.assert_allclose(found.scores, mean, rtol=1e-4, atol=1e-6)

    result = beit.evaluate(run, output=tmp_path / "evaluation", **options).metrics
    assert result["top1"] == pytest.approx(100 * (mean.argmax(-1) == found.labels).mean())
    loss = -np.log(mean[np.arange(len(mean)), found.labels]).mean()
    assert result["loss"] == pytest.approx(loss, rel=1e-4)
    content = json.loads((tmp_path / "evaluation" / "eval.json").read_text())
    assert (content["crops"], content["flip"]) == (crops, flip)


def softmax_rows(predictor, pixels):
    """Probabilities of uint8 crops `[B, 3, H, W]`, one view."""
    with paddle.no_grad():
        logits = predictor.model(predictor.normalize(np.ascontiguousarray(pixels))).numpy()
    return [softmax(row) for row in logits]


def test_a_run_predicts_with_the_views_of_its_evaluation(run, tmp_path, capsys):
    config = beit.config.with_options(
        beit.get_config(run / "config.yaml"), ["TEST.CROPS", 5, "TEST.FLIP", True]
    )
    image = str(next((tmp_path / "data").rglob("*.png")))
    expected = beit.load_predictor(run).with_views(5, True)([Image.open(image).convert("RGB")])[0]
    found = beit.inference_model(run / "model.pdparams", image, config=config)
    np.testing.assert_array_equal(found["pred_scores"], expected["pred_scores"])
    words = ["predict", str(run), image, "--device", "cpu", "--json", "--crops", "5", "--flip"]
    assert main(words) == 0
    row = json.loads(capsys.readouterr().out)[0]["topk"][0]
    assert row["score"] == pytest.approx(float(expected["pred_score"]), rel=1e-5)
    assert beit.inference_model(run, image)["pred_score"] != pytest.approx(row["score"], rel=1e-4)


@pytest.mark.parametrize("crops", [0, 2, 10])
def test_other_numbers_of_crops_are_refused(run, crops):
    with pytest.raises(ValueError, match="expected 1 or 5"):
        beit.load_predictor(run).with_views(crops)
    with pytest.raises(ValueError, match=r"TEST\.CROPS = .* expected one of 1, 5"):
        tiny_config(TEST__CROPS=crops)
