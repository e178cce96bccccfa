"""mmpretrain's names: inferencers, tuples of features, models in evaluation mode, patterns of `list_models`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.checkpoint.files import write
from beit.models.load import load_pretrained
from beit.models.mim import build_mim
from beit.predict.inferencers import FeatureExtractor, ImageClassificationInferencer
from beit.zoo.table import PUBLISHED
from tests.checkpoint import publishers
from tests.tiny import PRETRAIN, randomize, tiny_beit, tiny_config

UNILM = publishers.unilm_classifier(np.random.default_rng(0))  # 12 pixels, 5 classes
NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pdparams"
    write(path, publishers.paddlevit(UNILM))
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    rng = np.random.default_rng(1)
    files = [str(tmp_path / f"{number}.png") for number in range(3)]
    for file in files:
        Image.fromarray(rng.integers(0, 256, (30, 44, 3), np.uint8)).save(file)
    return files


def test_the_inferencer_has_the_results_of_inference_model(weights: Path, images: list[str]) -> None:
    inferencer = ImageClassificationInferencer(weights, classes=NAMES)
    results = inferencer(images, batch_size=2)
    expected = beit.inference_model(weights, images, class_names=NAMES)
    assert [set(result) for result in results] == [
        {"pred_scores", "pred_label", "pred_score", "pred_class"}
    ] * 3
    for ours, other in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours["pred_scores"], other["pred_scores"], rtol=1e-5)
        assert (ours["pred_label"], ours["pred_class"]) == (other["pred_label"], other["pred_class"])
        assert ours["pred_score"] == pytest.approx(ours["pred_scores"].max())
    assert len({result["pred_scores"].tobytes() for result in results}) == 3
    assert len(inferencer(images[0])) == 1  # a list also for one image


def test_without_class_names_there_is_no_pred_class(weights: Path, images: list[str]) -> None:
    (result,) = ImageClassificationInferencer(weights)(images[0])
    assert set(result) == {"pred_scores", "pred_label", "pred_score"}


def test_arrays_are_bgr(weights: Path, images: list[str]) -> None:
    """mmpretrain takes what OpenCV reads; `inference_model` takes RGB."""
    with Image.open(images[0]) as image:
        rgb = np.asarray(image.convert("RGB"))
    alpha = np.full((*rgb.shape[:2], 1), 255, np.uint8)
    expected = ImageClassificationInferencer(weights)(images[0])[0]["pred_scores"]
    for array in (rgb[..., ::-1], np.concatenate([rgb[..., ::-1], alpha], axis=-1), Image.fromarray(rgb)):
        found = ImageClassificationInferencer(weights)(array)[0]["pred_scores"]
        np.testing.assert_array_equal(found, expected)
    assert np.abs(ImageClassificationInferencer(weights)(rgb)[0]["pred_scores"] - expected).max() > 1e-4
    np.testing.assert_array_equal(beit.inference_model(weights, rgb)["pred_scores"], expected)


def test_the_feature_extractor(weights: Path, images: list[str]) -> None:
    extractor = FeatureExtractor(weights)
    expected = beit.extract_feat(weights, images)
    rows = extractor(images, batch_size=2)
    assert [(type(row), len(row)) for row in rows] == [(tuple, 1)] * 3
    np.testing.assert_allclose(np.stack([row[0].numpy() for row in rows]), expected, rtol=1e-5)
    np.testing.assert_allclose(extractor(images[0], stage="pre_logits")[0].numpy(), expected[0], rtol=1e-5)
    with pytest.raises(ValueError, match="stage='head'; expected one of backbone, neck, pre_logits"):
        extractor(images[0], stage="head")
    with pytest.raises(ValueError, match="batch_size=0; expected 1 or more"):
        extractor(images[0], batch_size=0)


def test_models_and_weights_that_the_constructor_takes(
    weights: Path, images: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"DATA.IMAGE_SIZE": 12, "MODEL.PATCH_SIZE": 4, "MODEL.EMBED_DIM": 24, "MODEL.DEPTH": 2}
    config |= {"MODEL.NUM_HEADS": 3, "MODEL.NUM_CLASSES": 5, "DATA.CROP_PCT": 0.9}
    tree = beit.get_config(None, [item for pair in config.items() for item in pair])
    file = weights.with_name("config.yml")
    file.write_text(beit.config.dump(tree))
    expected = ImageClassificationInferencer(weights)(images[0])[0]["pred_scores"]
    monkeypatch.setattr("beit.models.published.get_config", lambda *_: tree)
    name, model = "beit_base_patch16_224", randomize(beit.build_beit(tree), seed=5)
    for inferencer in (
        ImageClassificationInferencer(name, str(weights), NAMES),
        ImageClassificationInferencer(file, weights),
        ImageClassificationInferencer(randomize(beit.build_beit(tree), seed=6), weights),
    ):
        np.testing.assert_allclose(inferencer(images[0])[0]["pred_scores"], expected, rtol=1e-5)
    found = ImageClassificationInferencer(model, pretrained=False)(images[0])[0]["pred_scores"]
    assert np.abs(found - expected).max() > 1e-3
    assert ImageClassificationInferencer(name, pretrained=False).model.num_classes == 5
    with pytest.raises(ValueError, match="has no weights: pass pretrained=FILE"):
        ImageClassificationInferencer(file, pretrained=False)


def test_extract_feat_returns_a_tuple() -> None:
    """The pooled features of a classifier; tokens of a pre-trained model, in BEiT v2 of two blocks without norm."""
    images = np.random.default_rng(2).standard_normal((2, 3, 12, 12)).astype(np.float32)
    unilm = publishers.unilm_mim(np.random.default_rng(3))
    keys: dict[str, Any] = {"DATA__IMAGE_SIZE": 12, "MODEL__PATCH_SIZE": 4, "TOKENIZER__NUM_CODES": 11}
    model = build_mim(tiny_config(**PRETRAIN | keys))
    load_pretrained(model, publishers.unilm_file(unilm))
    model.eval()
    with paddle.no_grad():
        (tokens,) = model(paddle.to_tensor(images))
        outputs = model.forward_outputs(paddle.to_tensor(images))
    assert outputs.last_hidden_state is not None and tokens.shape == [2, 10, 24]
    np.testing.assert_array_equal(tokens.numpy(), outputs.last_hidden_state.numpy())

    model = build_mim(tiny_config(**PRETRAIN | keys | {"MODEL__EARLY_LAYERS": 1}))
    unilm = publishers.unilm_mim(np.random.default_rng(4), version=2)
    load_pretrained(model, publishers.unilm_file(unilm))
    model.eval()
    with paddle.no_grad():
        found = model(paddle.to_tensor(images))
        first, last = model.forward_outputs(paddle.to_tensor(images), hidden_states=[0, 1]).hidden_states
    assert isinstance(found, tuple) and len(found) == 2
    for ours, other in zip(found, (first, last), strict=True):
        np.testing.assert_array_equal(ours.numpy(), other.numpy())


def test_the_numbers_of_mmpretrains_own_code() -> None:
    """Made with mmpretrain 1.2.0 on these weights and images: `model(images)` and `model.extract_feat(images)`.

    ImageClassifier(backbone=BEiTViT(arch, img_size=12, patch_size=4, out_type="avg_featmap", use_rel_pos_bias=True,
    use_shared_rel_pos_bias=False), head=LinearClsHead(5, 24)), and BEiTPretrainViT(arch, img_size=12, patch_size=4,
    final_norm=True) or (final_norm=False, out_indices=[0, 1]); arch: 24 channels, 2 layers, 3 heads, 96 in the MLP.
    """
    images = paddle.to_tensor(np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32))
    model = tiny_beit()
    load_pretrained(model, publishers.openmmlab(UNILM))
    with paddle.no_grad():
        logits, (features,) = model(images), model.extract_feat(images)
    theirs = [
        [-0.49200, -0.47777, -0.75827, -0.21175, -0.43213],
        [-0.94366, 0.30686, 0.05462, -0.52075, -1.38518],
    ]
    np.testing.assert_allclose(logits.numpy(), theirs, atol=2e-5)
    theirs = [[-0.33299, 0.04299, -1.71798, 0.34634], [1.08056, -0.07833, -0.45993, 1.43681]]
    np.testing.assert_allclose(features.numpy()[:, :4], theirs, atol=2e-5)

    tokens = {
        1: [[[-0.26211, -1.14279, 2.06073], [-0.82729, -0.19575, -0.12917]]],
        2: [[[0.16505, 0.11038, -0.13881], [0.62533, 0.54125, -1.43098]],
            [[0.45556, 0.31111, -0.39145], [0.58038, 0.17613, -0.99175]]],
    }  # fmt: skip
    keys: dict[str, Any] = {"DATA__IMAGE_SIZE": 12, "MODEL__PATCH_SIZE": 4, "TOKENIZER__NUM_CODES": 11}
    for version, expected in tokens.items():
        mim = build_mim(tiny_config(**PRETRAIN | keys | {"MODEL__EARLY_LAYERS": version - 1}))
        unilm = publishers.unilm_mim(np.random.default_rng(2 + version), version=version)
        load_pretrained(mim, publishers.openmmlab(unilm))
        mim.eval()
        with paddle.no_grad():
            found = mim(images)
        np.testing.assert_allclose(np.stack([part.numpy()[0, :2, :3] for part in found]), expected, atol=2e-5)


def test_the_results_of_mmpretrains_own_inferencers(tmp_path: Path) -> None:
    """Made with mmpretrain 1.2.0 and that classifier: ResizeEdge(13, edge="short", backend="pillow", bicubic),
    CenterCrop(12), mean and std 127.5; `ImageClassificationInferencer(model)` and `FeatureExtractor(model)`.
    """
    pixels = np.random.default_rng(1).integers(0, 256, (30, 44, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    model = tiny_beit()
    load_pretrained(model, publishers.openmmlab(UNILM))
    half = (0.5, 0.5, 0.5)
    model.preprocessing = beit.Preprocessing(mean=half, std=half, crop_pct=0.875, interpolation="bicubic")
    inferencer = ImageClassificationInferencer(model, classes=NAMES)
    for result in inferencer([str(tmp_path / "a.png"), pixels[..., ::-1]], batch_size=2):
        theirs = [0.19390, 0.17966, 0.32633, 0.19748, 0.10262]
        np.testing.assert_allclose(result["pred_scores"], theirs, atol=2e-5)
        assert (result["pred_label"], result["pred_class"]) == (2, "c")
        assert result["pred_score"] == pytest.approx(0.3263327, abs=1e-6)
    (features,) = FeatureExtractor(model)(str(tmp_path / "a.png"))
    np.testing.assert_allclose(features[0].numpy()[:4], [1.51616, -0.35443, -0.69760, 1.20356], atol=2e-5)


def test_get_model_is_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in mmpretrain: two calls give the same result although the config has drop path."""
    monkeypatch.setattr("beit.models.published.get_config", lambda *_: tiny_config(MODEL__DROPPATH=0.9))
    model = randomize(beit.get_model("beit_base_patch16_224"))
    images = paddle.randn([4, 3, 16, 16])
    np.testing.assert_array_equal(model(images).numpy(), model(images).numpy())


def test_list_models_has_mmpretrains_arguments() -> None:
    names = beit.list_models(
        "beit", exclude_patterns=["beitv2", "*in22k*", "*_pt*", "beit_base", "beit_large"]
    )
    assert names == [
        "beit-base-p16_beit-in21k-pre_3rdparty_in1k",
        "beit-base-p16_beit-pre_8xb128-coslr-100e_in1k",
        "beit-base-p16_beitv2-in21k-pre_3rdparty_in1k",
        "beit-base-p16_beitv2-pre_8xb128-coslr-100e_in1k",
        "beit_beit-base-p16_8xb256-amp-coslr-300e_in1k",
    ]
    assert beit.list_models("beit*in1k", task="null") == [
        "beit_beit-base-p16_8xb256-amp-coslr-300e_in1k",
        "beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k",
    ]
    kinds = {PUBLISHED[name].kind for name in beit.list_models(task="Semantic Segmentation")}
    assert kinds == {"segmentation"}
    assert ImageClassificationInferencer.list_models("beit-") == names[:4]
    with pytest.raises(ValueError, match="task='Retrieval'; expected one of 'Image Classification', 'Sem"):
        beit.list_models(task="Retrieval")
