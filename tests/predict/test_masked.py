"""`inference_model` with pre-trained and segmentation models."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import beit
from beit.checkpoint.files import write
from beit.data.masking import build_mask_generator
from beit.data.scenes import draw_scene
from beit.predict.inference import extract_feat, inference_model, load_predictor
from beit.predict.masked import VISIBLE, draw_masked_prediction
from tests.reference_numpy import predict_tokens, torch_layout
from tests.tiny import TINIEST_PRETRAIN, randomize, tiny_config, upernet_config

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
FILES = {"TOKENIZER__PRETRAINED": "encoder.pdparams", "TOKENIZER__PRETRAINED_DECODER": "decoder.pdparams"}


def config(**keys):
    return tiny_config(**TINIEST_PRETRAIN | {"MASK__RULE": "random"} | keys)


def save(layer, path):
    write(path, {name: value.numpy() for name, value in layer.state_dict().items()})


@pytest.fixture
def weights(tmp_path):
    paddle.seed(0)
    save(randomize(beit.build_mim(config())), tmp_path / "mim.pdparams")
    tokenizer = beit.build_tokenizer(config())
    save(tokenizer.encoder, tmp_path / FILES["TOKENIZER__PRETRAINED"])
    save(tokenizer.decoder, tmp_path / FILES["TOKENIZER__PRETRAINED_DECODER"])
    return tmp_path / "mim.pdparams"


def test_predicted_tokens_equal_the_reference(weights):
    result = inference_model(weights, IMAGE, config=config())
    mask = build_mask_generator(config())(np.random.default_rng(0))
    np.testing.assert_array_equal(result["mask"].ravel(), mask)
    state = torch_layout(
        {
            name: value.numpy()
            for name, value in load_predictor(weights, config=config()).model.state_dict().items()
        }
    )
    pixels = (IMAGE.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5
    logits = predict_tokens(state, pixels, mask[None], 2)[0]
    np.testing.assert_array_equal(result["pred_tokens"].ravel()[mask], logits.argmax(-1))
    assert set(result["pred_tokens"].ravel()[~mask]) == {VISIBLE}
    assert "tokens" not in result and draw_masked_prediction(result).shape == (4, 12, 3)


def test_a_tokenizer_gives_the_accuracy_and_a_reconstruction(weights):
    files = {key: str(weights.parent / name) for key, name in FILES.items()}
    result = inference_model(weights, [IMAGE], config=config(**files))[0]
    hit = (result["tokens"] == result["pred_tokens"])[result["mask"]].mean()
    assert result["mask_accuracy"] == hit
    assert result["reconstruction"].dtype == np.uint8 and result["reconstruction"].shape[2] == 3
    drawn = draw_masked_prediction(result)
    assert drawn.shape == (4, 16, 3)
    hidden = np.kron(result["mask"], np.ones((2, 2), bool)).astype(bool)
    assert (drawn[:, 4:8][hidden] == 127).all()
    np.testing.assert_array_equal(drawn[:, 4:8][~hidden], result["view"][~hidden])


def test_a_segmentation_model_returns_a_class_map_and_areas(tmp_path):
    model = beit.build_upernet(upernet_config())
    path = tmp_path / "best.pdparams"
    paddle.save(model.state_dict(), str(path))
    options = upernet_config(TASK="segment", DATA__RESIZE_LIMITS=[32, 24])
    image = draw_scene(np.random.default_rng(0))[0]
    result = inference_model(path, image, config=options)
    assert result["pred_sem_seg"].shape == (image.height, image.width)
    counts = np.bincount(result["pred_sem_seg"].ravel())
    assert {row["class"]: row["pixels"] for row in result["classes"]} == {
        k: n for k, n in enumerate(counts) if n
    }


def test_mistakes(weights, tmp_path):
    with pytest.raises(
        ValueError, match=r"features need the weights of a classifier or an encoder; .* \(TASK: pretrain\)"
    ):
        extract_feat(weights, IMAGE, config=config())
    with pytest.raises(ValueError, match="TASK: pretrain takes its preprocessing"):
        load_predictor(weights, config=config(), class_names=("a",))
    with pytest.raises(ValueError, match="TASK: tokenizer, whose models do not predict"):
        load_predictor(weights, config=config(TASK="tokenizer"))
