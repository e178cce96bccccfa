"""UPerNet configs have the published values."""

from __future__ import annotations

from pathlib import Path

import pytest

from beit.config import get_config
from beit.models.upernet import PUBLISHED_LAYERS
from beit.optim.schedule import make_schedules, run_length

CONFIGS = Path(__file__).parent.parent / "configs" / "segment"

# name: (crop, images per GPU, accumulation, rate, layer decay, drop path)
# Source: unilm/beit and unilm/beit2, semantic_segmentation/configs and README; 8 GPUs.
RECIPES = {
    "upernet_beit_base_patch16_512_pt22k": (512, 2, 1, 7e-4, 0.65, 0.1),
    "upernet_beit_base_patch16_512_pt22k_ft22k": (512, 2, 1, 3e-5, 0.9, 0.1),
    "upernet_beit_base_patch16_640_pt22k_ft22k": (640, 2, 1, 3e-5, 0.9, 0.1),
    "upernet_beit_large_patch16_512_pt22k_ft22k": (512, 2, 1, 2e-5, 0.95, 0.2),
    "upernet_beit_large_patch16_640_pt22k_ft22k": (640, 1, 2, 2e-5, 0.95, 0.2),
    "upernet_beitv2_base_patch16_512_pt1k": (512, 2, 1, 5e-5, 0.75, 0.15),
    "upernet_beitv2_base_patch16_512_pt1k_ft21k": (512, 2, 1, 5e-5, 0.85, 0.15),
    "upernet_beitv2_large_patch16_512_pt1k": (512, 2, 1, 4e-5, 0.9, 0.2),
    "upernet_beitv2_large_patch16_512_pt1k_ft21k": (512, 2, 1, 3e-5, 0.9, 0.2),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name):
    config = get_config(name)
    train, data, model = config.TRAIN, config.DATA, config.MODEL
    size, batch, accumulation, rate, layer_decay, drop_path = RECIPES[name]
    assert name == model.NAME and config.TASK == "segment"
    assert (size, batch, accumulation) == (data.IMAGE_SIZE, data.BATCH_SIZE, train.ACCUM_ITER)
    assert batch * accumulation * 8 == train.TOTAL_BATCH == 16
    assert tuple(data.RESIZE_LIMITS) == (4 * size, size)
    assert (rate, layer_decay, drop_path) == (train.BASE_LR, train.LAYER_DECAY, model.DROPPATH)
    assert (train.WEIGHT_DECAY, train.WEIGHT_DECAY_END, train.GRAD_CLIP) == (0.05, None, None)
    assert tuple(data.IMAGENET_MEAN) == (0.485, 0.456, 0.406) and data.REDUCE_ZERO_LABEL
    assert tuple(train.RESIZE_RATIO) == (0.5, 2.0) and train.CAT_MAX_RATIO == 0.75 and train.HFLIP == 0.5
    assert (train.AUXILIARY_WEIGHT, model.AUXILIARY_CHANNELS, model.DECODER_DROPOUT) == (0.4, 256, 0.1)
    assert tuple(model.POOL_SCALES) == (1, 2, 3, 6) and model.NUM_CLASSES == 150
    assert model.DEPTH in PUBLISHED_LAYERS and model.OUT_INDICES is None
    assert (0.1 if "base" in name else 1e-6) == model.INIT_VALUES
    assert config.TEST.MODE == "slide"


def mmcv_rate(iteration, peak, warmup, total):
    """The rate of mmcv's `PolyLrUpdaterHook` (power 1, end 0) with a linear warm-up from 1e-6 of the rate."""
    rate = peak * (1 - iteration / total)
    return rate * (1 - (1 - iteration / warmup) * (1 - 1e-6)) if iteration < warmup else rate


@pytest.mark.parametrize("name", RECIPES)
def test_the_rates_are_those_of_mmcv(name):
    """A step has the rate of its last iteration: with two micro-batches mmcv counts 320k iterations."""
    config = get_config(name)
    micro, peak = RECIPES[name][2:4]
    steps_per_epoch = 20210 // 16
    assert run_length(config, steps_per_epoch) == 160_000
    at = make_schedules(config, steps_per_epoch, 16)
    for step in (0, 1, 750, 1499, 1500, 80_000, 159_999):
        expected = mmcv_rate(micro * step + micro - 1, peak, 1500 * micro, 160_000 * micro)
        assert at(step) == (pytest.approx(expected, rel=1e-9), 0.05)


def test_every_file_is_a_recipe_or_the_demo():
    names = {path.stem for path in CONFIGS.glob("*.yaml")}
    assert names == {*RECIPES, "demo_scenes"}
    for name in names - {"demo_scenes"}:
        text = (CONFIGS / f"{name}.yaml").read_text()
        assert f"-cfg=configs/segment/{name}.yaml" in text
