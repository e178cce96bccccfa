"""TRAIN.EARLY_STOP: a run ends when the metric does not improve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beit.checkpoint.files import read_checkpoint, write_checkpoint
from beit.tasks.classify import Classify
from beit.train.run import run
from beit.train.state import StoppedError
from tests.tiny import QUIET, TINIEST_PRETRAIN, log_of, losses, stop_after, tiny_config

NOTHING_LEARNED: dict[str, Any] = QUIET | {
    "TRAIN__BASE_LR": 0.0, "TRAIN__END_LR": 0.0, "TRAIN__NUM_EPOCHS": 9, "TRAIN__EARLY_STOP": 2,
}  # fmt: skip


def test_an_early_stop_ends_the_run_as_its_last_epoch_does(data: Path, tmp_path: Path) -> None:
    metrics = run(tiny_config(data, tmp_path, **NOTHING_LEARNED))
    assert metrics["count"] == 10 and len(losses(tmp_path)) == 18
    assert (
        "early stop: the last 2 evaluation(s) are not better than the best, "
        f"{metrics['top1']:.4f} (TRAIN.EARLY_STOP 2)" in log_of(tmp_path)
    )
    assert (tmp_path / "model.pdparams").is_file() and (tmp_path / "epoch_0003.pdparams").is_file()
    run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **NOTHING_LEARNED))  # it has ended
    assert len(losses(tmp_path)) == 18
    run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **NOTHING_LEARNED | {"TRAIN__EARLY_STOP": 3}))
    assert len(losses(tmp_path)) == 24


@pytest.mark.parametrize("step", [6, 8, 12, 17, 18])
def test_a_resumed_run_stops_early_after_the_same_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        with pytest.raises(StoppedError):
            run(tiny_config(data, tmp_path, **NOTHING_LEARNED))
    run(tiny_config(data, tmp_path, MODEL__RESUME="auto", **NOTHING_LEARNED))
    assert len(losses(tmp_path)) == 18


def test_evaluations_count_from_the_best_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs without an evaluation do not count."""
    scores = iter([3.0, 2.0, 4.0, 4.0, 1.0, 5.0])
    monkeypatch.setattr(Classify, "selection_metric", lambda self, metrics: next(scores))
    run(tiny_config(data, tmp_path, **NOTHING_LEARNED | {"TRAIN__NUM_EPOCHS": 30, "VALIDATE_FREQ": 2}))
    assert len(losses(tmp_path)) == 5 * 2 * 6
    assert next(scores) == 5.0


def test_an_early_stop_needs_validation_images(data: Path, tmp_path: Path) -> None:
    keys = TINIEST_PRETRAIN | {"DATA__DATASET": "flat", "TRAIN__EARLY_STOP": 2}
    with pytest.raises(
        ValueError, match=r"TRAIN\.EARLY_STOP 2 needs evaluations, and there are no validation"
    ):
        run(tiny_config(data, tmp_path, **keys))


def test_a_state_without_the_count_is_continued(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, **NOTHING_LEARNED | {"TRAIN__NUM_EPOCHS": 2}))
    state = read_checkpoint(tmp_path / "latest.pdparams")
    assert state.pop("since_best") == 0  # the state is saved before the second evaluation
    write_checkpoint(tmp_path / "old.pdparams", state)
    resume = str(tmp_path / "old.pdparams")
    run(tiny_config(data, tmp_path / "new", MODEL__RESUME=resume, **NOTHING_LEARNED))
    assert len(losses(tmp_path / "new")) == 6  # its evaluation is one, that after the next epoch the second
