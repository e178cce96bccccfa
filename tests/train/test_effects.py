"""What changes the weights of a run, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.train.run import run
from tests.tiny import QUIET, different_weights, load_weights, losses, tiny_config


def test_accumulation_equals_a_larger_batch(data: Path, tmp_path: Path) -> None:
    keys = QUIET | {"TRAIN__NUM_EPOCHS": 5}
    run(tiny_config(data, tmp_path / "large", DATA__BATCH_SIZE=6, **keys))
    run(tiny_config(data, tmp_path / "small", DATA__BATCH_SIZE=2, TRAIN__ACCUM_ITER=3, **keys))
    large, small = losses(tmp_path / "large"), losses(tmp_path / "small")
    assert len(large) == 20
    np.testing.assert_allclose(large, small, atol=1e-5)


def test_the_number_of_workers_does_not_change_the_weights(data: Path, tmp_path: Path) -> None:
    for workers in (0, 2):
        run(tiny_config(data, tmp_path / str(workers), DATA__NUM_WORKERS=workers))
    assert different_weights(tmp_path / "0", tmp_path / "2") == []


def test_equal_seeds_repeat_a_run_and_others_change_it(data: Path, tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tiny_config(data, tmp_path / name, SEED=seed))
        runs[name] = losses(tmp_path / name)
    assert runs["a"] == runs["b"] != runs["c"]


EFFECTS: list[dict[str, Any]] = [
    {"TRAIN__BASE_LR": 5e-3},
    {"TRAIN__END_LR": 5e-3},
    {"TRAIN__WARMUP_EPOCHS": 0},
    {"TRAIN__WARMUP_START_LR": 1e-3},
    {"TRAIN__SCHEDULE_OFFSET": 0.5},
    {"TRAIN__WEIGHT_DECAY": 0.9},
    {"TRAIN__WEIGHT_DECAY_END": 0.9},
    {"TRAIN__LAYER_DECAY": 0.5},
    {"TRAIN__DECAY_REL_POS_BIAS": False},
    {"TRAIN__GRAD_CLIP": 0.01},
    {"TRAIN__LINEAR_SCALED_LR": 8},
    {"TRAIN__OPTIMIZER__EPS": 1e-2},
    {"TRAIN__OPTIMIZER__BETAS": [0.5, 0.9]},
    {"TRAIN__MODEL_EMA": True},
    {"TRAIN__MODEL_EMA": True, "TRAIN__MODEL_EMA_DECAY": 0.5},
    {"TRAIN__FREEZE_LAYERS": 1},
    {"TRAIN__INTERPOLATION": "bilinear"},
    {"TRAIN__SCALE": [0.5, 0.6]},
    {"TRAIN__RATIO": [1.0, 1.1]},
    {"TRAIN__HFLIP": 0.0},
    {"TRAIN__AUTO_AUGMENT": ""},
    {"TRAIN__RANDOM_ERASE_PROB": 1.0},
    {"TRAIN__REPEATED_AUG": 2},
    {"TRAIN__MIXUP_ALPHA": 0.0},
    {"TRAIN__CUTMIX_ALPHA": 0.0},
    {"TRAIN__CUTMIX_MINMAX": [0.2, 0.3]},
    {"TRAIN__MIXUP_PROB": 0.1},
    {"TRAIN__MIXUP_SWITCH_PROB": 0.0},
    {"TRAIN__MIXUP_MODE": "elem"},
    {"TRAIN__SMOOTHING": 0.0},
    {"TRAIN__LOSS": "bce"},
    {"TRAIN__LAST_EPOCH": 1},
    {"MODEL__DROPPATH": 0.0},
    {"DATA__INTERPOLATION": "bilinear"},
    {"DATA__IMAGENET_MEAN": [0.4, 0.5, 0.5]},
    {"DATA__IMAGENET_STD": [0.4, 0.5, 0.5]},
]


@pytest.fixture(scope="module")
def reference(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    output = tmp_path_factory.mktemp("reference")
    run(tiny_config(data, output, TRAIN__WEIGHT_DECAY=0.5))
    return load_weights(output / "model.pdparams")


@pytest.mark.parametrize("keys", EFFECTS, ids=lambda keys: " ".join(f"{k}={v}" for k, v in keys.items()))
def test_every_training_key_changes_the_weights(
    data: Path, tmp_path: Path, reference: dict[str, np.ndarray], keys: dict[str, Any]
) -> None:
    run(tiny_config(data, tmp_path, **({"TRAIN__WEIGHT_DECAY": 0.5} | keys)))
    changed = load_weights(tmp_path / "model.pdparams")
    assert any((changed[name] != value).any() for name, value in reference.items())


def test_frozen_layers_do_not_change(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path / "one"))
    start = str(tmp_path / "one" / "model.pdparams")
    run(tiny_config(data, tmp_path / "two", MODEL__PRETRAINED=start, TRAIN__FREEZE_LAYERS=2))
    trained = different_weights(tmp_path / "one", tmp_path / "two")
    frozen = ("cls_token", "patch_embed.", "blocks.0.")
    assert trained == [name for name in load_weights(start) if not name.startswith(frozen)]
