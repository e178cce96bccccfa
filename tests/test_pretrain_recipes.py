"""Pre-training and probing configs have the published values, and their models and masks can be built."""

from __future__ import annotations

from pathlib import Path

import pytest

import beit
from beit.checkpoint.files import write
from beit.config import get_config
from beit.data.masking import BlockMask, build_mask_generator
from beit.models.mim import build_mim
from beit.models.tokenizer import tokenizer_image_size

CONFIGS = Path(__file__).parent.parent / "configs"
HALF, IMAGENET = 0.5, 0.229

# name: (epochs, warm-up steps or epochs, clip, beta 2, drop path, LayerScale, early layers, std, smallest crop, mask)
# Source: README commands of unilm/beit and unilm/beit2; arXiv 2106.08254, table 12; 2208.06366, appendix.
RECIPES = {
    "beit_base_patch16_224_pt22k": (150, 10_000, 3.0, 0.999, 0.1, 0.1, 0, HALF, 0.08, "at_most"),
    "beit_large_patch16_224_pt22k": (150, 10_000, 1.0, 0.999, 0.1, 1e-5, 0, HALF, 0.08, "at_most"),
    "beit_base_patch16_224_pt1k": (800, 10, 3.0, 0.999, 0.1, 0.1, 0, IMAGENET, 0.08, "at_most"),
    "beit_large_patch16_224_pt1k": (800, 10, 1.0, 0.999, 0.1, 1e-5, 0, IMAGENET, 0.08, "at_most"),
    "beit_base_patch16_224_pt1k_800ep": (800, 10, 3.0, 0.999, 0.1, 0.0, 0, IMAGENET, 0.08, "at_most"),
    "beitv2_base_patch16_224_pt1k_300e": (300, 10, 3.0, 0.98, 0.0, 0.1, 9, IMAGENET, 0.2, "exact"),
    "beitv2_base_patch16_224_pt1k": (1600, 10, 3.0, 0.999, 0.1, 0.1, 9, IMAGENET, 0.2, "exact"),
    "beitv2_large_patch16_224_pt1k_300e": (300, 10, 3.0, 0.98, 0.0, 1e-5, 21, IMAGENET, 0.2, "exact"),
    "beitv2_large_patch16_224_pt1k": (1600, 10, 3.0, 0.999, 0.1, 1e-5, 21, IMAGENET, 0.2, "exact"),
}


@pytest.mark.parametrize("name", RECIPES)
def test_pretraining_recipe(name):
    config = get_config(name)
    train, data, model = config.TRAIN, config.DATA, config.MODEL
    assert RECIPES[name] == (
        train.NUM_EPOCHS,
        train.WARMUP_STEPS or train.WARMUP_EPOCHS,
        train.GRAD_CLIP,
        train.OPTIMIZER.BETAS[1],
        model.DROPPATH,
        model.INIT_VALUES,
        model.EARLY_LAYERS,
        data.IMAGENET_STD[0],
        train.SCALE[0],
        config.MASK.RULE,
    )
    # the same for every config
    assert (train.BASE_LR, train.END_LR, train.TOTAL_BATCH, train.LINEAR_SCALED_LR) == (
        1.5e-3,
        1e-5,
        2048,
        None,
    )
    assert (train.WEIGHT_DECAY, train.WEIGHT_DECAY_END, train.LAYER_DECAY) == (0.05, None, 1.0)
    assert (train.OPTIMIZER.BETAS[0], train.OPTIMIZER.EPS, train.MODEL_EMA) == (0.9, 1e-8, False)
    assert (train.COLOR_JITTER, train.HFLIP, train.SCALE[1]) == (0.4, 0.5, 1.0)
    assert (model.HEAD_LAYERS, model.SHARED_LM_HEAD, config.TOKENIZER.NUM_CODES) == (2, True, 8192)
    assert train.TOTAL_BATCH % data.BATCH_SIZE == 0


@pytest.mark.parametrize("name", RECIPES)
def test_views_masks_and_positions(name):
    config = get_config(name)
    v2 = name.startswith("beitv2")
    assert tokenizer_image_size(config) == ((224, 224) if v2 else (112, 112))
    assert ("bicubic" if v2 else "lanczos") == config.DATA.SECOND_INTERPOLATION
    assert config.DATA.INTERPOLATION == "bicubic"
    assert build_mask_generator(config) == BlockMask((14, 14), 75, 16, 75, exact=v2)
    absolute = name.endswith("800ep")
    model = config.MODEL
    assert (absolute, not absolute) == (model.USE_ABS_POS_EMB, model.USE_SHARED_REL_POS_BIAS)
    assert not model.USE_REL_POS_BIAS


def test_the_patch_size_changes_the_second_view():
    """Patch size 8 has a 28 x 28 grid and needs 224 pixels for DALL-E's tokens of 8 pixels (unilm issue 396)."""
    assert tokenizer_image_size(get_config("beit_base_patch16_224_pt1k", ["MODEL.PATCH_SIZE", 8])) == (
        224,
        224,
    )


@pytest.mark.parametrize("path", sorted((CONFIGS / "probe").glob("*.yaml")), ids=lambda path: path.stem)
def test_probe_configs(path):
    config = get_config(path.stem)
    assert ("knn" if path.stem.endswith("knn") else "probe") == config.TASK
    assert config.DATA.IMAGENET_STD[0] == (IMAGENET if "v2" in path.stem else HALF)
    assert config.PROBE.LAYERS == ()  # all layers, because the last one is not the best in BEiT v1
    assert ("v2" in path.stem) == config.PROBE.USE_NORM
    assert (config.PROBE.NEIGHBORS, config.PROBE.TEMPERATURE) == (20, 0.07)
    train = config.TRAIN
    assert (train.BASE_LR, train.END_LR, train.NUM_EPOCHS, train.WARMUP_EPOCHS) == (4e-3, 0.0, 100, 0)
    assert (train.WEIGHT_DECAY, train.LR_PER_EPOCH, train.TOTAL_BATCH) == (1e-4, True, 1024)
    assert (train.AUTO_AUGMENT, train.COLOR_JITTER, train.RANDOM_ERASE_PROB) == ("", 0.0, 0.0)
    assert config.DATA.CROP_PCT == 0.875
    assert not train.DROP_LAST
    assert (train.INTERPOLATION, config.DATA.INTERPOLATION) == ("bilinear", "bicubic")
    kinds = (
        ("class",)
        if path.stem.startswith("beitv2") and config.TASK == "probe"
        else ("class", "patches", "both")
    )
    assert kinds == config.PROBE.KINDS
    assert not config.MODEL.USE_MEAN_POOLING  # the final norm of pre-training is kept


@pytest.mark.parametrize(
    "path",
    sorted(CONFIGS.glob("pretrain/*.yaml")) + sorted(CONFIGS.glob("probe/*.yaml")),
    ids=lambda path: path.stem,
)
def test_configs_start_with_their_name_and_command(path):
    text = path.read_text(encoding="utf-8")
    assert path.stem == get_config(path).MODEL.NAME
    assert text.startswith("# ")
    assert f"-cfg=configs/{path.parent.name}/{path.name}" in text


def test_own_tiny_takes_the_whole_pretrained_encoder(tmp_path):
    """Also the position table, of which each block of the classifier gets a copy."""
    pretrained = build_mim(get_config("own_tiny_pretrain", ["DATA.IMAGE_SIZE", 32]))
    write(tmp_path / "model.pdparams", {k: v.numpy() for k, v in pretrained.state_dict().items()})
    model = beit.build_beit(get_config("own_tiny", ["MODEL.NUM_CLASSES", 3, "DATA.IMAGE_SIZE", 32]))
    report = beit.load_pretrained(model, str(tmp_path / "model.pdparams"))
    assert set(report.new) == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    left_out = {"lm_head.weight", "lm_head.bias", "mask_token", "norm.weight", "norm.bias"}
    assert set(report.dropped) == left_out
