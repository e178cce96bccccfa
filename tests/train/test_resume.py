"""Runs that are stopped and continued."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from beit.checkpoint.files import read_checkpoint, write_checkpoint
from beit.train.run import run
from beit.train.state import StoppedError
from tests.tiny import different_weights, log_of, losses, stop_after, tiny_config


@pytest.mark.parametrize("step", [2, 6, 9])
@pytest.mark.parametrize(
    "options", [{}, {"TRAIN__MODEL_EMA": True, "TRAIN__ACCUM_ITER": 2, "DATA__BATCH_SIZE": 2}]
)
def test_a_resumed_run_ends_in_the_same_bytes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, options: dict[str, Any]
) -> None:
    run(tiny_config(data, tmp_path / "whole", **options))
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(StoppedError, match=f"stopped by SIGTERM after step {step}; the state is saved"):
            run(tiny_config(data, tmp_path / "broken", **options))
    assert read_checkpoint(tmp_path / "broken" / "latest.pdparams")["step"] == step
    metrics = run(tiny_config(data, tmp_path / "broken", MODEL__RESUME="auto", **options))
    assert metrics["count"] == 10
    assert different_weights(tmp_path / "whole", tmp_path / "broken") == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    whole, broken = (read_checkpoint(tmp_path / name / "latest.pdparams") for name in ("whole", "broken"))
    for name, value in whole["optimizer"].items():
        assert value.tobytes() == broken["optimizer"][name].tobytes(), name


@pytest.mark.parametrize("step", [4, 5])
def test_a_smaller_last_step(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    keys: dict[str, Any] = {"DATA__BATCH_SIZE": 5, "TRAIN__DROP_LAST": False, "TRAIN__NUM_EPOCHS": 2}
    run(tiny_config(data, tmp_path / "whole", **keys))
    assert (
        len(losses(tmp_path / "whole")) == 10
    )  # 24 images: four steps of five images and one of four, twice
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(StoppedError):
            run(tiny_config(data, tmp_path / "broken", **keys))
    with pytest.raises(ValueError, match=r"the data changed: TRAIN.DROP_LAST False -> True"):
        run(tiny_config(data, tmp_path / "broken", MODEL__RESUME="auto", **keys | {"TRAIN__DROP_LAST": True}))
    run(tiny_config(data, tmp_path / "broken", MODEL__RESUME="auto", **keys))
    assert different_weights(tmp_path / "whole", tmp_path / "broken") == []


def test_a_resume_with_another_schedule_says_that_the_rate_jumps(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"TRAIN__NUM_EPOCHS": 3, "TRAIN__WARMUP_EPOCHS": 1, "TRAIN__END_LR": 0.0}
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(StoppedError):
            run(tiny_config(data, tmp_path, **keys))
    checkpoint = (tmp_path / "latest.pdparams").read_bytes()

    def resume(name: str, **changed: Any) -> str:
        folder = tmp_path / name
        (tmp_path / "kept.pdparams").write_bytes(checkpoint)
        kept = str(tmp_path / "kept.pdparams")
        run(tiny_config(data, folder, MODEL__RESUME=kept, **keys | changed))
        return log_of(folder)

    assert "settings that differ" not in resume("same")
    # 12 steps of warm-up and cosine over 18 steps; at step 9 the decay of 12 steps has passed a quarter
    before, longer = (0.01 * 0.5 * (1 + math.cos(math.pi * 3 / n)) for n in (12, 30))
    log = resume("longer", TRAIN__NUM_EPOCHS=6)
    assert (
        f"warning: the learning rate jumps at step 9 from {before:.3e}, where the schedule of the checkpoint goes on, "
        f"to {longer:.3e}: TRAIN.NUM_EPOCHS 3 -> 6\n"
    ) in log
    assert "the weight decay jumps" not in log
    log = resume(
        "more", TRAIN__BASE_LR=0.02, TRAIN__WEIGHT_DECAY=0.1, TRAIN__LAYER_DECAY=0.5, TRAIN__HFLIP=0.1
    )
    assert (
        f"jumps at step 9 from {before:.3e}, where" in log
        and f"to {2 * before:.3e}: TRAIN.BASE_LR 0.01 -> 0.02" in log
    )
    assert "warning: the weight decay jumps at step 9 from 5.000e-02" in log
    assert "TRAIN.LAYER_DECAY" in log and "TRAIN.HFLIP 0.5 -> 0.1" in log
    log = resume("fewer", TRAIN__NUM_EPOCHS=1)  # the run is over: no further step has a rate
    assert "jumps" not in log and "TRAIN.NUM_EPOCHS 3 -> 1" in log


def test_a_checkpoint_from_before_a_key_was_added_is_continued(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=1))
    state = read_checkpoint(tmp_path / "latest.pdparams")
    del state["order"]["TRAIN.DROP_LAST"]
    lines = state["config"].splitlines(keepends=True)
    state["config"] = "".join(line for line in lines if "DROP_LAST" not in line and "OFFSET" not in line)
    write_checkpoint(tmp_path / "old.pdparams", state)
    old = str(tmp_path / "old.pdparams")
    run(tiny_config(data, tmp_path / "same", MODEL__RESUME=old, TRAIN__NUM_EPOCHS=1))
    assert "settings that differ" not in log_of(tmp_path / "same")
    with pytest.raises(ValueError, match=r"the data changed: TRAIN.DROP_LAST True -> False"):
        run(tiny_config(data, tmp_path / "other", MODEL__RESUME=old, TRAIN__DROP_LAST=False))


def test_a_finished_run_that_is_continued_says_that_the_rate_rises(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=1))
    run(tiny_config(data, tmp_path, MODEL__RESUME="auto", TRAIN__NUM_EPOCHS=2))
    assert "warning: the learning rate jumps at step 6 from 1.000e-06, where" in log_of(tmp_path)


def test_resuming_a_finished_run_only_evaluates(data: Path, tmp_path: Path) -> None:
    first = run(tiny_config(data, tmp_path))
    again = run(tiny_config(data, tmp_path, MODEL__RESUME="auto"))
    assert first["top1"] == again["top1"]
    assert len(losses(tmp_path)) == 12


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"DATA__BATCH_SIZE": 8}, r"the data changed: total batch 4 -> 8"),
        ({"SEED": 5}, r"the data changed: SEED 0 -> 5"),
        ({"MODEL__DEPTH": 3}, r"is of another model than the config: missing blocks.2"),
        ({"MODEL__EMBED_DIM": 48}, r"cls_token is \[1, 1, 24\], the model has \[1, 1, 48\]"),
        ({"TRAIN__MODEL_EMA": True}, "has no moving average"),
        ({"MODEL__RESUME": "missing.pdparams"}, "-resume missing.pdparams: no such file"),
        (
            {"MODEL__RESUME": "WEIGHTS"},
            "holds weights, not a training state; start a new run from them with -pretrained|checksum",
        ),
    ],
)
def test_a_resume_that_cannot_be_exact_is_refused(
    data: Path, tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=1))
    if keys.get("MODEL__RESUME") == "WEIGHTS":
        keys = {"MODEL__RESUME": str(tmp_path / "model.pdparams")}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tiny_config(data, tmp_path, **({"MODEL__RESUME": "auto"} | keys)))


def test_accumulation_may_change_at_a_resume(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=1))
    metrics = run(tiny_config(data, tmp_path, MODEL__RESUME="auto", DATA__BATCH_SIZE=2, TRAIN__ACCUM_ITER=2))
    assert metrics["count"] == 10


def test_another_total_batch_warns_or_scales_the_rate(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path / "a", TRAIN__TOTAL_BATCH=1024))
    run(tiny_config(data, tmp_path / "b", TRAIN__TOTAL_BATCH=1024, TRAIN__LINEAR_SCALED_LR=1024))
    first, second = ((tmp_path / name / "log.txt").read_text(encoding="utf-8") for name in "ab")
    assert "warning: the rate 0.01 is for a total batch of 1024, this run has 4" in first
    assert "learning rate scaled from 0.01 at batch 1024 to 3.90625e-05 at 4" in second
    assert "warning: the recipe" not in second
