"""Whole runs from a folder of images to a classifier: pre-train, resume, fine-tune, probe, nearest neighbors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from beit.data.unlabeled import HOLDOUT
from beit.models.mim import BeitForMaskedImageModeling, MimLogits
from beit.optim.schedule import make_schedules, warmup_length
from beit.train.run import run
from beit.train.state import NonFiniteLossError
from tests.tiny import (
    PRETRAIN,
    QUIET,
    SHARED_TABLE,
    different_weights,
    load_weights,
    losses,
    tiny_config,
    write_dataset,
)

MIM = PRETRAIN | {"DATA__DATASET": "flat"}
V2 = MIM | {"MODEL__EARLY_LAYERS": 1, "MASK__RULE": "exact"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), train=12, val=4)


@pytest.fixture(scope="module")
def pretrained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output folder of a v2 run without validation images."""
    output = tmp_path_factory.mktemp("v2")
    assert run(tiny_config(data, output, **V2)) == {}
    return output


def test_a_run_without_validation_saves_its_weights(pretrained: Path) -> None:
    assert len(losses(pretrained)) == 8  # 16 images, 4 steps per epoch, 2 epochs
    log = (pretrained / "log.txt").read_text(encoding="utf-8")
    assert "evaluation data: none" in log
    assert "loss_cls_pt" in log
    names = {path.name for path in pretrained.iterdir()}
    assert {"model.pdparams", "latest.pdparams", "epoch_0002.pdparams"} <= names
    assert "best.pdparams" not in names
    weights = load_weights(pretrained / "model.pdparams")
    assert {"mask_token", "lm_head.weight", "cls_pt_layers.1.norm1.weight"} <= weights.keys()
    assert not any(name.startswith(("encoder.", "blocks.input")) for name in weights)


@pytest.mark.parametrize("file", ["model.pdparams", "latest.pdparams"])
def test_its_weights_initialize_a_classifier(data: Path, pretrained: Path, tmp_path: Path, file: str) -> None:
    """The documented command: any fine-tuning config with -pretrained."""
    keys = {"MODEL__PRETRAINED": str(pretrained / file), "TRAIN__NUM_EPOCHS": 1}
    assert run(tiny_config(data, tmp_path, **QUIET | keys))["count"] == 4
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert "mim_v2" in log
    assert "rel_pos_bias.relative_position_bias_table" in log
    assert "norm of pre-training; it does not become fc_norm" in log


def test_its_weights_initialize_another_pretraining(data: Path, pretrained: Path, tmp_path: Path) -> None:
    keys = {"MODEL__PRETRAINED": str(pretrained / "model.pdparams"), "TRAIN__NUM_EPOCHS": 1}
    run(tiny_config(data, tmp_path, **V2 | keys))
    assert losses(tmp_path)[0] < losses(pretrained)[0]


def test_a_resumed_run_has_the_same_losses_and_weights(data: Path, pretrained: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, **V2 | {"TRAIN__NUM_EPOCHS": 2, "SAVE_STEPS": 3}))
    assert losses(tmp_path) == losses(pretrained)  # runs are deterministic
    middle = tmp_path / "epoch_0001.pdparams"
    continued = tmp_path / "continued"
    run(tiny_config(data, continued, **V2 | {"MODEL__RESUME": str(middle)}))
    assert losses(continued) == losses(pretrained)[4:]
    assert different_weights(pretrained, continued) == []


def test_held_out_images_are_evaluated_and_drawn(data: Path, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", train=12, val=4)
    (root / HOLDOUT).write_text("".join(f"my images/val_{k}.png\n" for k in range(4)), encoding="utf-8")
    output = tmp_path / "out"
    metrics = run(tiny_config(root, output, **MIM | {"TRAIN__NUM_EPOCHS": 1}))
    assert metrics["count"] == 4
    assert 0 <= metrics["mlm_acc"] <= 1
    assert math.isfinite(metrics["loss"])
    assert (output / "best.pdparams").exists()
    weights = {"MODEL__PRETRAINED": str(output / "model.pdparams"), "EVAL": True}
    again = run(tiny_config(root, tmp_path / "eval", **MIM | weights))
    assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="-eval: there are no validation images"):
        run(tiny_config(data, tmp_path / "none", **MIM | weights))


def test_a_broken_branch_is_named(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = BeitForMaskedImageModeling.forward

    def broken(self: Any, *arguments: Any) -> MimLogits:
        logits = forward(self, *arguments)
        return MimLogits(logits.main, logits.cls_pt * float("nan"))

    monkeypatch.setattr(BeitForMaskedImageModeling, "forward", broken)
    with pytest.raises(NonFiniteLossError, match="loss = nan, loss_cls_pt = nan, grad_norm = nan within"):
        run(tiny_config(data, tmp_path, **V2))


# ---- probes ------------------------------------------------------------------------------------------------------

FROZEN = SHARED_TABLE | {"MODEL__USE_MEAN_POOLING": False}


def test_a_probe_trains_and_continues(data: Path, pretrained: Path, tmp_path: Path) -> None:
    keys = QUIET | FROZEN | {"TASK": "probe", "MODEL__PRETRAINED": str(pretrained / "latest.pdparams")}
    metrics = run(tiny_config(data, tmp_path, **keys))
    result = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert {row["kind"] for row in result["features"]} == {"class", "patches", "both"}
    assert max(row["top1"] for row in result["features"]) == metrics["top1"]
    assert (tmp_path / "probe.png").stat().st_size > 1000
    assert all(name.startswith("layer_0") for name in load_weights(tmp_path / "model.pdparams"))
    continued = tmp_path / "continued"
    run(tiny_config(data, continued, **keys | {"MODEL__RESUME": str(tmp_path / "epoch_0001.pdparams")}))
    assert different_weights(tmp_path, continued) == []


def test_neighbors_need_no_training(data: Path, pretrained: Path, tmp_path: Path) -> None:
    keys = (
        QUIET
        | FROZEN
        | {"TASK": "knn", "EVAL": True, "MODEL__PRETRAINED": str(pretrained / "model.pdparams")}
    )
    metrics = run(tiny_config(data, tmp_path, **keys))
    assert metrics["count"] == 4
    assert "layer" in (tmp_path / "knn.txt").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "knn.json").read_text(encoding="utf-8"))["neighbors"] == 20


# ---- schedules ---------------------------------------------------------------------------------------------------


def test_warmup_in_steps_and_rates_per_epoch(data: Path, tmp_path: Path) -> None:
    config = tiny_config(data, tmp_path, TRAIN__WARMUP_STEPS=7, TRAIN__NUM_EPOCHS=5)
    assert warmup_length(config, 4) == 7
    rate = make_schedules(config, 4, 4)
    assert rate(6)[0] == config.TRAIN.BASE_LR
    assert rate(5)[0] < config.TRAIN.BASE_LR
    keys = {
        "TRAIN__WARMUP_EPOCHS": 0.0,
        "TRAIN__LR_PER_EPOCH": True,
        "TRAIN__NUM_EPOCHS": 5,
        "TRAIN__END_LR": 0.0,
    }
    config = tiny_config(data, tmp_path, **keys)
    rate = make_schedules(config, 4, 4)
    assert [rate(step)[0] for step in range(4, 8)] == [rate(4)[0]] * 4
    expected = [0.5 * config.TRAIN.BASE_LR * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)]
    assert [rate(4 * epoch)[0] for epoch in range(5)] == pytest.approx(expected)
