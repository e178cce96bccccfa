"""The configs with mmpretrain's names have the numbers of its files (version 1.2.0)."""

from __future__ import annotations

from typing import Any

import pytest

from beit.config import get_config
from beit.flags import config_from_arguments
from beit.zoo.table import PUBLISHED

HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)

# path: (epochs, batch per GPU, rate, smallest rate, drop path, clip, beta 2, mean, smallest crop, early layers)
PRETRAINING = {
    "configs/beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py": (
        300, 256, 1.5e-3, 1e-5, 0.1, 3.0, 0.999, IMAGENET, 0.08, 0,
    ),
    "configs/beitv2/beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k.py": (
        300, 256, 1.5e-3, 1e-5, 0.0, 3.0, 0.98, IMAGENET, 0.2, 9,
    ),
    "configs/beitv2/beitv2_beit-base-p16_8xb256-amp-coslr-1600e_in1k.py": (
        1600, 256, 1.5e-3, 1e-5, 0.1, 3.0, 0.999, IMAGENET, 0.2, 9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", PRETRAINING)
def test_pretraining(path: str) -> None:
    name = path.split("/")[-1].removesuffix(".py")
    config = get_config(path)
    assert get_config(name) == config and name == config.MODEL.NAME
    train, data, model = config.TRAIN, config.DATA, config.MODEL
    assert PRETRAINING[path] == (
        train.NUM_EPOCHS,
        data.BATCH_SIZE,
        train.BASE_LR,
        train.END_LR,
        model.DROPPATH,
        train.GRAD_CLIP,
        train.OPTIMIZER.BETAS[1],
        data.IMAGENET_MEAN,
        train.SCALE[0],
        model.EARLY_LAYERS,
    )
    # LinearLR starts at 1e-4 of the peak and lasts 10 epochs; eight GPUs; every image has 75 masked patches
    assert pytest.approx(1e-4 * train.BASE_LR) == train.WARMUP_START_LR
    assert (train.WARMUP_EPOCHS, train.TOTAL_BATCH, config.MASK.RULE) == (10, 8 * data.BATCH_SIZE, "exact")
    assert (train.WEIGHT_DECAY, train.COLOR_JITTER, model.INIT_VALUES) == (0.05, 0.4, 0.1)
    assert ("vqkd" if "v2" in name else "dall-e") == config.TOKENIZER.TYPE
    assert ("bicubic" if "v2" in name else "lanczos") == data.SECOND_INTERPOLATION


# path: (rate, mean, published name)
FINE_TUNING = {
    "configs/beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py": (
        4e-3, HALF, "beit-base-p16_beit-pre_8xb128-coslr-100e_in1k",
    ),
    "configs/beitv2/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py": (
        5e-4, IMAGENET, "beit-base-p16_beitv2-pre_8xb128-coslr-100e_in1k",
    ),
}  # fmt: skip


@pytest.mark.parametrize("path", FINE_TUNING)
def test_fine_tuning(path: str) -> None:
    config = get_config(path)
    train, data, model = config.TRAIN, config.DATA, config.MODEL
    assert FINE_TUNING[path] == (train.BASE_LR, data.IMAGENET_MEAN, model.NAME)
    assert get_config(model.NAME) == config
    assert pytest.approx(1e-4 * train.BASE_LR) == train.WARMUP_START_LR
    assert (train.NUM_EPOCHS, train.WARMUP_EPOCHS, train.END_LR) == (100, 20, 1e-6)
    assert (data.BATCH_SIZE, train.TOTAL_BATCH, train.LAYER_DECAY, model.DROPPATH) == (128, 1024, 0.65, 0.1)
    assert (train.WEIGHT_DECAY, train.GRAD_CLIP, train.SMOOTHING, train.COLOR_JITTER) == (
        0.05,
        None,
        0.1,
        0.4,
    )
    assert (train.MIXUP_ALPHA, train.CUTMIX_ALPHA, train.MIXUP_SWITCH_PROB) == (0.8, 1.0, 0.5)
    assert (train.AUTO_AUGMENT, train.RANDOM_ERASE_PROB) == ("rand-m9-mstd0.5-inc1", 0.25)
    assert round(data.IMAGE_SIZE / data.CROP_PCT) == 256


@pytest.mark.parametrize(("version", "mean"), [("beit", HALF), ("beitv2", IMAGENET)])
def test_evaluation_of_converted_weights(version: str, mean: Any) -> None:
    config = get_config(f"configs/{version}/benchmarks/beit-base-p16_8xb64_in1k.py")
    assert (64, mean, 0.875) == (config.DATA.BATCH_SIZE, config.DATA.IMAGENET_MEAN, config.DATA.CROP_PCT)
    assert f"beit-base-p16_{version}-in21k-pre_3rdparty_in1k" == config.MODEL.NAME
    assert get_config(config.MODEL.NAME) == config
    assert config.TRAIN.TOTAL_BATCH % (config.DATA.BATCH_SIZE * config.TRAIN.ACCUM_ITER) == 0


def test_published_names_are_configs() -> None:
    """`-cfg` takes each name of mmpretrain's tables, and the model of that name has this config."""
    names = [name for name, entry in PUBLISHED.items() if "/mmpretrain/tree/" in entry.page and "-" in name]
    assert len(names) == 6
    for name in names:
        config = config_from_arguments([f"-cfg={name}"])
        assert name == config.MODEL.NAME == PUBLISHED[name].config


def test_a_name_of_both_versions_is_the_newer_with_a_warning() -> None:
    with pytest.warns(UserWarning, match="mmpretrain/beitv2/benchmarks/.* is used"):
        config = get_config("beit-base-p16_8xb128-coslr-100e_in1k")
    assert config.TRAIN.BASE_LR == 5e-4
