"""Configs of classifiers have the published recipes, sizes and normalization."""

from __future__ import annotations

from pathlib import Path

import pytest

from beit.config import get_config

CONFIGS = Path(__file__).parent.parent / "configs"

# name: (size, total batch, rate, warm-up, epochs, layer decay, drop path, weight decay, mixup, std, classes)
# Source: README files of unilm/beit and unilm/beit2, paper tables 13 (v1).
RECIPES = {
    "beit_base_patch16_224_pt22k_ft22k": (224, 4096, 3e-3, 5, 90, 0.65, 0.2, 0.05, 0.0, 0.5, 21841),
    "beit_large_patch16_224_pt22k_ft22k": (224, 2048, 2e-3, 5, 90, 0.75, 0.2, 0.05, 0.0, 0.5, 21841),
    "beit_base_patch16_224_pt22k_ft1k": (224, 1024, 4e-3, 20, 100, 0.65, 0.1, 0.05, 0.8, 0.5, 1000),
    "beit_base_patch16_224_pt22k_ft22kto1k": (224, 512, 2e-5, 5, 30, 0.85, 0.1, 1e-8, 0.0, 0.5, 1000),
    "beit_base_patch16_384_pt22k_ft22kto1k": (384, 512, 2e-5, 5, 30, 0.85, 0.1, 1e-8, 0.0, 0.5, 1000),
    "beit_large_patch16_224_pt22k_ft1k": (224, 1024, 1e-3, 5, 50, 0.75, 0.2, 0.05, 0.8, 0.5, 1000),
    "beit_large_patch16_224_pt22k_ft22kto1k": (224, 512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, 0.0, 0.5, 1000),
    "beit_large_patch16_384_pt22k_ft22kto1k": (384, 512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, 0.0, 0.5, 1000),
    "beit_large_patch16_512_pt22k_ft22kto1k": (512, 512, 2e-5, 5, 30, 0.9, 0.4, 1e-8, 0.0, 0.5, 1000),
    "beit_base_patch16_224_pt1k_ft1k": (224, 1024, 4e-3, 20, 100, 0.65, 0.1, 0.05, 0.8, 0.229, 1000),
    "beit_large_patch16_224_pt1k_ft1k": (224, 1024, 3e-3, 5, 50, 0.75, 0.1, 0.05, 0.8, 0.229, 1000),
    "beit_base_patch16_224_pt1k_cifar100": (224, 512, 3e-3, 20, 150, 0.65, 0.1, 0.3, 0.8, 0.229, 100),
    "beitv2_base_patch16_224_pt1k_ft21k": (224, 4096, 6e-4, 20, 90, 0.75, 0.1, 0.05, 0.8, 0.229, 21841),
    "beitv2_large_patch16_224_pt1k_ft21k": (224, 4096, 6e-4, 20, 90, 0.75, 0.2, 0.05, 0.8, 0.229, 21841),
    "beitv2_base_patch16_224_pt1k_300e_ft1k": (224, 1024, 5e-4, 20, 100, 0.65, 0.1, 0.05, 0.8, 0.229, 1000),
    "beitv2_base_patch16_224_pt1k_ft1k": (224, 1024, 5e-4, 20, 100, 0.6, 0.2, 0.05, 0.8, 0.229, 1000),
    "beitv2_base_patch16_224_pt1k_ft21kto1k": (224, 1024, 5e-5, 20, 30, 0.75, 0.1, 0.05, 0.0, 0.229, 1000),
    "beitv2_large_patch16_224_pt1k_300e_ft1k": (224, 1024, 5e-4, 5, 50, 0.8, 0.2, 0.05, 0.8, 0.229, 1000),
    "beitv2_large_patch16_224_pt1k_ft1k": (224, 1024, 2e-4, 5, 50, 0.8, 0.2, 0.05, 0.8, 0.229, 1000),
    "beitv2_large_patch16_224_pt1k_ft21kto1k": (224, 1024, 7e-5, 5, 20, 0.8, 0.25, 0.05, 0.0, 0.229, 1000),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe(name: str) -> None:
    config = get_config(name)
    train, data, model = config.TRAIN, config.DATA, config.MODEL
    assert RECIPES[name] == (
        data.IMAGE_SIZE,
        train.TOTAL_BATCH,
        train.BASE_LR,
        train.WARMUP_EPOCHS,
        train.NUM_EPOCHS,
        train.LAYER_DECAY,
        model.DROPPATH,
        train.WEIGHT_DECAY,
        train.MIXUP_ALPHA,
        data.IMAGENET_STD[0],
        model.NUM_CLASSES,
    )
    assert (1.0 if data.IMAGE_SIZE >= 384 else 0.875) == data.CROP_PCT
    assert (1e-6, 0.1, 0.0 if "cifar" in name else 0.25) == (
        train.END_LR,
        train.SMOOTHING,
        train.RANDOM_ERASE_PROB,
    )
    assert (1.0 if train.MIXUP_ALPHA else 0.0) == train.CUTMIX_ALPHA
    assert (0.0 if model.USE_ABS_POS_EMB else 0.1 if "base" in name else 1e-5) == model.INIT_VALUES
    assert train.TOTAL_BATCH % (data.BATCH_SIZE * train.ACCUM_ITER) == 0
    assert train.GRAD_CLIP is None  # the runs used DeepSpeed, which never saw --clip_grad
    assert train.INTERPOLATION is None and data.INTERPOLATION == "bicubic"


# The evaluation protocol of the accuracies of PaddleViT and timm.
CROPS = {
    "beit_base_patch16_224": 0.9,
    "beit_base_patch16_384": 1.0,
    "beit_large_patch16_224": 0.9,
    "beit_large_patch16_384": 1.0,
    "beit_large_patch16_512": 1.0,
    "beitv2_base_patch16_224": 0.9,
    "beitv2_large_patch16_224": 0.95,
}


@pytest.mark.parametrize("name", CROPS)
def test_documented_names_evaluate_as_published(name: str) -> None:
    config = get_config(name)
    assert CROPS[name] == config.DATA.CROP_PCT
    assert ((0.485, 0.456, 0.406) if "v2" in name else (0.5, 0.5, 0.5)) == config.DATA.IMAGENET_MEAN
    assert int(name.rsplit("_", 1)[1]) == config.DATA.IMAGE_SIZE
    assert config.DATA.INTERPOLATION == "bicubic"
    assert config.MODEL.NUM_CLASSES == 1000
    assert config.MODEL.USE_MEAN_POOLING


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_top_level_configs_have_their_file_name_and_start_with_a_comment(path: Path) -> None:
    assert path.stem == get_config(path).MODEL.NAME
    assert path.read_text(encoding="utf-8").startswith("# ")
