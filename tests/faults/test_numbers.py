"""NaN and infinity, loss scales that overflow, and batches of one image."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

import beit.train.loop
import beit.train.run
from beit.checkpoint.files import nonfinite_names, read_checkpoint, write
from beit.train.run import run
from beit.train.state import NonFiniteLossError, TrainState
from tests.faults.harness import LATEST, Row, finish, json_lines, message, step_of, succeed
from tests.models.teacher_numpy import dino_state
from tests.tiny import TOKENIZER, command, tiny_config, write_dataset


def is_finite(file: Path) -> bool:
    state = read_checkpoint(file)
    return not [name for part in ("model", "optimizer") for name in nonfinite_names(state[part])]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("what", ["nan", "inf"])
def test_loss_of_one_step(data: Path, tmp_path: Path, row: Row, ranks: int, what: str) -> None:
    row.fault = (
        f"the loss of step 7 is {what}"
        + (" on rank 1 of two" if ranks == 2 else "")
        + ", log lines only at saves (every 4 steps)"
    )
    row.expected = "status 2; the message names loss and steps; the checkpoint of step 4 is intact and finite"
    words = command(
        "tests/faults/poisoned_run.py",
        data,
        tmp_path / "run",
        f"-nprocs={ranks}",
        SAVE_STEPS=4,
        REPORT_FREQ=1000,
        RANK_GRACE=2.0,
    )
    status, text, row.seconds = finish(words, tmp_path / "run", extra={"POISON": f"{ranks - 1}:7:{what}"})
    assert status == 2 and re.search("loss = (nan|inf)", text) and "Traceback" not in text, text[-2000:]
    assert step_of(tmp_path / "run") == 4 and is_finite(tmp_path / "run" / LATEST)
    row.seen = (
        next(line for line in text.splitlines() if "loss = " in line)[:200] + "; checkpoint of step 4 finite"
    )


def test_rate_that_explodes(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "TRAIN.BASE_LR=1e30, through the command",
        "status 2 with the numbers and what to change; nothing saved",
    )
    status, text, row.seconds = finish(
        command(
            "main_single_gpu.py",
            data,
            tmp_path / "run",
            TRAIN__BASE_LR=1e30,
            TRAIN__WARMUP_EPOCHS=0,
            SAVE_STEPS=1,
        ),
        tmp_path / "run",
    )
    assert status == 2 and "Lower TRAIN.BASE_LR" in text and "Traceback" not in text, text[-1500:]
    assert not (tmp_path / "run" / LATEST).exists() or is_finite(tmp_path / "run" / LATEST)
    row.seen = message(text)


def poison_after(monkeypatch: pytest.MonkeyPatch, step: int, change: Callable[[TrainState], None]) -> None:
    """Change the state right after an optimizer step, before it is saved."""
    real = beit.train.loop.train_step

    def train_step(state: TrainState, *arguments: Any) -> Any:
        result = real(state, *arguments)
        if state.step + 1 == step:
            change(state)
        return result

    monkeypatch.setattr("beit.train.loop.train_step", train_step)


def set_nan(tensor: paddle.Tensor) -> None:
    values = tensor.numpy().copy()
    values.reshape(-1)[0] = np.nan
    tensor.set_value(values)


@pytest.mark.parametrize("part", ["weight", "moment", "average"])
def test_a_nan_in_the_state_is_not_saved(
    data: Path, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    row.fault = f"one {part} becomes NaN in a step with a finite loss (a flipped bit in memory)"
    row.expected = "refused before saving, with the name; the previous checkpoint stays"

    def change(state: TrainState) -> None:
        if part == "average":
            state.ema._shadow["fc_norm.weight"][0] = float("nan")
        elif part == "weight":
            set_nan(state.task.model.state_dict()["blocks.0.norm1.weight"])
        else:
            moments = next(iter(state.optimizer._accumulators["moment1"].values()))
            moments[0] = float("inf")

    poison_after(monkeypatch, 6, change)
    with pytest.raises(NonFiniteLossError, match="NaN or infinity in 1 tensors at step 6") as caught:
        run(tiny_config(data, tmp_path, SAVE_STEPS=3, TRAIN__MODEL_EMA=True))
    assert step_of(tmp_path) == 3 and is_finite(tmp_path / LATEST)
    row.seen = str(caught.value).replace(str(tmp_path), "…")


def test_codebook(data: Path, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    row.fault, row.expected = (
        "a code of a VQ-KD codebook becomes NaN",
        "stopped at the next log line or save; nothing saved",
    )
    write(tmp_path / "dino.pdparams", dino_state(np.random.default_rng(0), side=4))

    def change(state: TrainState) -> None:
        name = next(
            name for name in state.task.model.state_dict() if "quantize" in name and "embed" in name.lower()
        )
        set_nan(state.task.model.state_dict()[name])

    poison_after(monkeypatch, 6, change)
    keys = TOKENIZER | {
        "TOKENIZER__TEACHER_PRETRAINED": str(tmp_path / "dino.pdparams"),
        "SAVE_STEPS": 3,
    }
    with pytest.raises(NonFiniteLossError) as caught:
        run(tiny_config(data, tmp_path / "run", **keys))
    assert step_of(tmp_path / "run") == 3 and is_finite(tmp_path / "run" / LATEST)
    row.seen = str(caught.value).replace(str(tmp_path), "…")


def force_scaler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch on loss scaling on a CPU, where Paddle disables it, with float32 numbers."""
    place = SimpleNamespace(
        is_gpu_place=lambda: True, is_xpu_place=lambda: False, is_custom_place=lambda: False
    )
    monkeypatch.setattr(
        "paddle.amp.grad_scaler._dygraph_tracer", lambda: SimpleNamespace(_expected_place=place)
    )
    monkeypatch.setattr("beit.train.run._amp_dtype", lambda *_: "float16")
    monkeypatch.setattr("beit.train.loop.autocast", lambda _: beit.train.loop.nullcontext())


def test_float16_overflow(data: Path, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    row.fault, row.expected = (
        "the gradient of step 4 overflows under loss scaling",
        "the step is skipped, the scale is halved, training continues; the checkpoint contains the scale",
    )
    force_scaler(monkeypatch)
    real, weights = beit.train.loop.train_step, []

    def train_step(state: TrainState, *arguments: Any) -> Any:
        model = state.task.model
        if state.step == 3:
            handle = model.fc_norm.weight.register_hook(lambda gradient: gradient * float("inf"))
        result = real(state, *arguments)
        if state.step == 3:
            handle.remove()
        weights.append({name: value.numpy().copy() for name, value in model.state_dict().items()})
        return result

    monkeypatch.setattr("beit.train.loop.train_step", train_step)
    run(tiny_config(data, tmp_path, AMP=True))
    assert all((weights[2][name] == weights[3][name]).all() for name in weights[2])
    assert any((weights[3][name] != weights[4][name]).any() for name in weights[2])
    scales = [
        line["train/loss_scale"]
        for line in json_lines(tmp_path / "metrics.jsonl")
        if "train/loss_scale" in line
    ]
    assert scales[2] == 2 * scales[3] == 2 * scales[-1]
    assert float(np.asarray(read_checkpoint(tmp_path / LATEST)["scaler"]["scale"]).item()) == scales[-1]
    row.seen = f"step 4 skipped, scale {scales[2]:g} -> {scales[3]:g}, {len(weights)} steps to the end"


def test_float16_overflow_storm(
    data: Path, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    row.fault, row.expected = (
        "every gradient overflows",
        "stops with a message when the scale is below 1",
    )
    force_scaler(monkeypatch)
    real = beit.train.loop.train_step

    def train_step(state: TrainState, *arguments: Any) -> Any:
        handle = state.task.model.fc_norm.weight.register_hook(lambda gradient: gradient * float("inf"))
        result = real(state, *arguments)
        handle.remove()
        return result

    monkeypatch.setattr("beit.train.loop.train_step", train_step)
    with pytest.raises(NonFiniteLossError, match="overflow float16 again and again") as caught:
        run(tiny_config(data, tmp_path, AMP=True, TRAIN__NUM_EPOCHS=5))
    row.seen = str(caught.value)


def test_one_class_one_image(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "1 class, 1 training image, 1 validation image, batch 1 with mixup and cutmix",
        "trains; accuracy 100 %; all values finite",
    )
    root = write_dataset(tmp_path / "data", train=1, val=1, classes=1)
    keys = {"MODEL__NUM_CLASSES": 1, "DATA__BATCH_SIZE": 1}
    text = succeed(command("main_single_gpu.py", root, tmp_path / "run", **keys), tmp_path / "run")
    said = next(line for line in reversed(text.splitlines()) if "evaluation after epoch" in line)
    assert "top1 100.0000  top5 100.0000" in said
    row.seen = said[20:]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("batch", [1, 3])
def test_odd_batches_with_mixup(data: Path, tmp_path: Path, row: Row, mode: str, batch: int) -> None:
    row.fault, row.expected = (
        f"mixup and cutmix ({mode}) with a batch of {batch}; the last validation batch is of 1",
        "trains; all images evaluated",
    )
    metrics = run(
        tiny_config(
            data,
            tmp_path,
            DATA__BATCH_SIZE=batch,
            DATA__BATCH_SIZE_EVAL=5,
            TRAIN__MIXUP_MODE=mode,
            TRAIN__MAX_STEPS=6,
            TRAIN__WARMUP_EPOCHS=0,
        )
    )
    assert metrics["count"] == 11 and np.isfinite(metrics["loss"])
    row.seen = f"loss {metrics['loss']:.3f}, 11 images evaluated"


def test_evaluation_loss(data: Path, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    row.fault, row.expected = "the model gives NaN for one validation image", "refused: no metric is printed"
    from beit.tasks.classify import Classify

    real = Classify.eval_step

    def eval_step(self: Classify, batch: Any) -> dict[str, Any]:
        sums = real(self, batch)
        return sums | {"loss": sums["loss"] * float("nan")}

    run(tiny_config(data, tmp_path / "train", TRAIN__NUM_EPOCHS=1))
    monkeypatch.setattr(Classify, "eval_step", eval_step)
    with pytest.raises(NonFiniteLossError, match="the evaluation's loss is nan") as caught:
        run(
            tiny_config(
                data,
                tmp_path / "eval",
                EVAL=True,
                MODEL__PRETRAINED=str(tmp_path / "train" / "model.pdparams"),
            )
        )
    assert not (tmp_path / "eval" / "eval.json").exists()
    row.seen = str(caught.value)
