"""Parameter counts of the published tokenizers."""

from __future__ import annotations

import paddle
import pytest

import beit
from beit.data.transforms import build_train_transform
from beit.models.dalle import DalleDecoder, DalleEncoder
from beit.models.tokenizer import build_vqkd
from beit.optim.schedule import make_schedules

VQKD = {"1x768x12_clip": 94_655_008, "3x768x12_clip": 108_829_216, "1x768x12_dino": 94_851_872}


@pytest.fixture
def quick(monkeypatch):
    """Zeros instead of random weights, because only shapes are tested."""
    monkeypatch.setattr(paddle.nn.initializer, "TruncatedNormal", lambda **_: lambda parameter: None)
    monkeypatch.setattr(paddle.nn.initializer, "Normal", lambda *_: paddle.nn.initializer.Constant(0.0))
    paddle.nn.initializer.set_global_initializer(paddle.nn.initializer.Constant(0.0))
    yield
    paddle.nn.initializer.set_global_initializer(None)


def count(model):
    return sum(parameter.size for parameter in model.parameters())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", VQKD)
def test_vqkd(name):
    """Counted on two shallow models, since every block has the same parameters."""

    def shallow(blocks):
        depths = ["TOKENIZER.DEPTH", blocks, "TOKENIZER.DECODER_DEPTH", 1]
        return build_vqkd(beit.get_config(f"vqkd_encoder_base_decoder_{name}", depths))

    keys = beit.get_config(f"vqkd_encoder_base_decoder_{name}").TOKENIZER
    first, block = count(shallow(1)), count(shallow(2)) - count(shallow(1))
    assert first + block * (keys.DEPTH - 1 + keys.DECODER_DEPTH - 1) == VQKD[name]
    assert shallow(1).grid_size == (14, 14)
    assert shallow(1).quantize.embedding.weight.shape == [8192, 32]


@pytest.mark.usefixtures("quick")
def test_dalle():
    encoder, decoder = DalleEncoder(), DalleDecoder()
    assert (count(encoder), len(encoder.parameters())) == (53_786_240, 74)
    assert (count(decoder), len(decoder.parameters())) == (43_829_766, 76)


@pytest.mark.parametrize(
    "name", [*(f"vqkd_encoder_base_decoder_{part}" for part in VQKD), "vqkd_small_data_clip"]
)
def test_recipe(name):
    """unilm/beit2/TOKENIZER.md: 8 x 64 images, peak 5e-5 * 512 / 128, end 1e-5."""
    config = beit.get_config(name)
    train = config.TRAIN
    lr, decay = make_schedules(config, 2500, 512)(int(10 * 2500))
    assert (lr, decay) == (pytest.approx(2e-4), 1e-4)
    assert make_schedules(config, 2500, 512)(100 * 2500 - 1)[0] == pytest.approx(1e-5, rel=1e-3)
    assert (config.TASK, train.NUM_EPOCHS, config.DATA.BATCH_SIZE) == ("tokenizer", 100, 64)
    assert (tuple(train.OPTIMIZER.BETAS), train.LAYER_DECAY, train.MODEL_EMA) == ((0.9, 0.99), 1.0, False)
    transform = build_train_transform(config, jitter_first=True)
    assert (transform.size, transform.hflip, transform.augment) == ((224, 224), 0.5, None)
    assert transform.jitter is None
    assert transform.erase_probability == 0.0
    assert transform.scale == ((0.2, 1.0) if "small" in name else (0.08, 1.0))
    assert config.DATA.CROP_PCT == 0.875  # 256 before the crop of 224
    assert config.TOKENIZER.RESEED_DEAD_CODES is ("small" in name)
