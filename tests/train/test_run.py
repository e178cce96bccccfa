"""Whole runs in this process: train, evaluate, stop, resume; and the effect of each key of the loop."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from beit.checkpoint.files import read_checkpoint, write_checkpoint
from beit.parallel.stop import StopVote
from beit.tasks.classify import Classify
from beit.train.run import run
from beit.train.state import NonFiniteLossError, StoppedError
from tests.tiny import (
    QUIET,
    TINIEST_PRETRAIN,
    different_weights,
    load_weights,
    losses,
    tiny_config,
    write_dataset,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the run behave as if SIGTERM arrived during that step."""
    calls = {"count": 0}

    def passed(self: StopVote) -> bool:
        calls["count"] += 1
        self.requested = 15
        return calls["count"] == step

    monkeypatch.setattr(StopVote, "passed", passed)


def test_training_learns_and_writes_all_files(data: Path, tmp_path: Path) -> None:
    metrics = run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=6, VALIDATE_FREQ=2, KEEP_LAST=2, **QUIET))
    assert metrics["count"] == 10
    assert metrics["top1"] == 100.0
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {
        "config.yaml", "log.txt", "metrics.jsonl", "visualdl", "latest.pdparams", "best.pdparams", "model.pdparams",
        "epoch_0005.pdparams", "epoch_0006.pdparams", "classes.csv",
    }  # fmt: skip
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert log.count("evaluation after epoch") == 3
    assert "total batch 4 = 1 rank(s) x 4 images x 1 micro-batch(es)" in log


def test_saved_weights_evaluate_to_the_same_metrics(data: Path, tmp_path: Path) -> None:
    trained = run(tiny_config(data, tmp_path / "train"))
    for name in ("model.pdparams", "latest.pdparams"):
        config = tiny_config(
            data,
            tmp_path / name,
            EVAL=True,
            MODEL__PRETRAINED=str(tmp_path / "train" / name),
            DATA__BATCH_SIZE_EVAL=3,
        )
        evaluated = run(config)
        assert {k: evaluated[k] for k in ("top1", "top5", "count")} == {
            k: trained[k] for k in ("top1", "top5", "count")
        }
        assert evaluated["loss"] == pytest.approx(trained["loss"], rel=1e-6)
        report = json.loads((tmp_path / name / "eval.json").read_text(encoding="utf-8"))
        assert report["top1"] == trained["top1"]
        assert report["mean"] == [0.5, 0.5, 0.5]
        log = (tmp_path / name / "log.txt").read_text(encoding="utf-8")
        assert "size 16, crop 1.0, bicubic, mean pooling (config.yaml beside the weights)" in log
        assert "warning" not in log


def test_evaluation_with_other_preprocessing_warns(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path / "train", TRAIN__NUM_EPOCHS=1))
    pretrained = str(tmp_path / "train" / "model.pdparams")
    other = {"DATA__IMAGENET_MEAN": [0.485, 0.456, 0.406], "DATA__CROP_PCT": 0.9}
    run(tiny_config(data, tmp_path / "eval", EVAL=True, MODEL__PRETRAINED=pretrained, **other))
    log = (tmp_path / "eval" / "log.txt").read_text(encoding="utf-8")
    assert "warning: DATA.IMAGENET_MEAN is (0.485, 0.456, 0.406), the checkpoint's is (0.5, 0.5, 0.5)" in log
    assert "warning: DATA.CROP_PCT is 0.9, the checkpoint's is 1.0" in log


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


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text(encoding="utf-8")


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


NOTHING_LEARNED: dict[str, Any] = QUIET | {
    "TRAIN__BASE_LR": 0.0, "TRAIN__END_LR": 0.0, "TRAIN__NUM_EPOCHS": 9, "TRAIN__EARLY_STOP": 2,
}  # fmt: skip
"""The first evaluation is the best, so the third one ends the run: after 18 of 54 steps."""


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


def test_classes_are_matched_by_name(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In an evaluation, a fine-tuning that keeps the head, and a resume."""
    (data / "class_names.txt").write_text("cat\ndog\nemu\n")
    trained = run(tiny_config(data, tmp_path / "run", SAVE_FREQ=1, **QUIET))
    moved = write_dataset(tmp_path / "moved")
    for split in ("train", "val"):
        lines = (moved / f"{split}_list.txt").read_text().splitlines()
        swapped = [f"{line[:-1]}{(int(line[-1]) + 1) % 3}" for line in lines]
        (moved / f"{split}_list.txt").write_text("\n".join(swapped) + "\n")
    (moved / "class_names.txt").write_text("emu\ncat\ndog\n")
    weights = {"MODEL__PRETRAINED": str(tmp_path / "run/model.pdparams")}
    again = run(tiny_config(moved, tmp_path / "eval", EVAL=True, **weights, **QUIET))
    assert (again["top1"], again["loss"]) == (trained["top1"], trained["loss"])
    assert "labels are matched by name: 'emu' is label 0 of the data and output 2" in capsys.readouterr().out
    by_number = run(
        tiny_config(moved, tmp_path / "eval2", EVAL=True, DATA__MATCH_CLASS_NAMES=False, **weights, **QUIET)
    )
    assert by_number["loss"] != trained["loss"]
    run(tiny_config(moved, tmp_path / "tuned", **weights, **QUIET))
    assert (tmp_path / "tuned/class_names.txt").read_text() == "cat\ndog\nemu\n"
    run(tiny_config(moved, tmp_path / "run", MODEL__RESUME="auto", SAVE_FREQ=1, **QUIET))
    assert (tmp_path / "run/class_names.txt").read_text() == "cat\ndog\nemu\n"
    (moved / "class_names.txt").write_text("bus\ncar\nvan\n")
    for keys in (weights, weights | {"EVAL": True}):
        with pytest.raises(ValueError, match=r"of the data \(bus, car, van\) are not .* \(cat, dog, emu\)"):
            run(tiny_config(moved, tmp_path / f"other{len(keys)}", **keys, **QUIET))


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


def test_save_steps_and_report_freq(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    monkeypatch.setattr("beit.train.resume.save", lambda training, kind: saved.append((kind, training.step)))
    run(tiny_config(data, tmp_path, SAVE_STEPS=4, SAVE_FREQ=2, REPORT_FREQ=5))
    assert [step for kind, step in saved if kind == "latest"] == [4, 6, 8, 12]
    assert [step for kind, step in saved if kind == "epoch"] == [12]
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines if "train/loss" in line] == [4, 5, 6, 8, 10, 12]


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_before_a_save(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteLossError, match=r"loss = (nan|inf).*up to step \d+ .*the newest checkpoint in"
    ):
        run(
            tiny_config(data, tmp_path, TRAIN__BASE_LR=1e30, TRAIN__WARMUP_EPOCHS=0, REPORT_FREQ=100, **QUIET)
        )
    assert not (tmp_path / "latest.pdparams").exists()


def test_a_second_run_does_not_overwrite_the_first(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path))
    with pytest.raises(ValueError, match="already holds a training run; continue it with -resume auto"):
        run(tiny_config(data, tmp_path))


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


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"EVAL": True}, "-eval needs the weights to evaluate: -pretrained FILE"),
        ({"DATA__DATA_PATH": "/does/not/exist"}, "DATA.DATA_PATH=/does/not/exist does not exist"),
        ({"DATA__BATCH_SIZE": 1000}, "batch larger than the data"),
        ({"MODEL__NUM_CLASSES": 2}, "train_list.txt:3: "),
        ({"MODEL__NUM_CLASSES": 0}, "TASK: classify needs classes"),
        ({"MODEL__PRETRAINED": "/does/not/exist.pdparams"}, "/does/not/exist.pdparams"),
        ({"DEVICE": "gpu"}, "DEVICE = gpu, but this Paddle is a CPU build; install paddlepaddle-gpu"),
        ({"SAVE": "/proc/output"}, "the output folder cannot be written"),
    ],
)
def test_errors_name_the_wrong_input(data: Path, tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        run(tiny_config(data, tmp_path, **keys))


def test_weights_without_a_head_are_not_evaluated(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path / "train", TRAIN__NUM_EPOCHS=1))
    pretrained = str(tmp_path / "train" / "model.pdparams")
    config = tiny_config(
        data, tmp_path / "eval", EVAL=True, MODEL__PRETRAINED=pretrained, MODEL__NUM_CLASSES=4
    )
    with pytest.raises(
        ValueError, match=r"cannot be evaluated, it lacks head.weight, head.bias: 3 classes in the file"
    ):
        run(config)


def damage(data: Path, count: int, folder: Path) -> Path:
    """A copy of the dataset in which the first `count` training and validation images are cut in half."""
    copy = write_dataset(folder)
    for number in range(count):
        for split in ("train", "val"):
            path = copy / "my images" / f"{split}_{number}.png"
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return copy


def test_unreadable_training_images_are_replaced_counted_and_limited(data: Path, tmp_path: Path) -> None:
    broken = damage(data, 1, tmp_path / "data")
    healthy_val = (data / "val_list.txt").read_text(encoding="utf-8").splitlines(keepends=True)[1:]
    (broken / "val_list.txt").write_text("".join(healthy_val), encoding="utf-8")
    run(tiny_config(broken, tmp_path / "run", DATA__MAX_BAD_FRACTION=0.5))
    assert "1 of 24 training images cannot be read" in (tmp_path / "run" / "log.txt").read_text(
        encoding="utf-8"
    )
    assert "train_0.png" in (tmp_path / "run" / "bad_images.txt").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="more than DATA.MAX_BAD_FRACTION = 0.01; they are listed in"):
        run(tiny_config(broken, tmp_path / "strict"))


def test_a_run_continues_after_a_repair(data: Path, tmp_path: Path) -> None:
    broken = damage(data, 1, tmp_path / "data")
    (broken / "val_list.txt").write_text(
        (data / "train_list.txt").read_text(encoding="utf-8"), encoding="utf-8"
    )
    config = tiny_config(broken, tmp_path / "run")
    with pytest.raises(ValueError, match="1 of 24 training images cannot be read, more than DATA.MAX_BAD"):
        run(config)
    shutil.copy(data / "my images" / "train_0.png", broken / "my images" / "train_0.png")
    run(tiny_config(broken, tmp_path / "run", MODEL__RESUME="auto"))
    assert "train_0.png\t" in (tmp_path / "run" / "bad_images.txt").read_text(encoding="utf-8")


def test_an_unreadable_validation_image_is_an_error(data: Path, tmp_path: Path) -> None:
    broken = damage(data, 1, tmp_path / "data")
    run(tiny_config(data, tmp_path / "run"))
    config = tiny_config(
        broken, tmp_path / "eval", EVAL=True, MODEL__PRETRAINED=str(tmp_path / "run" / "model.pdparams")
    )
    with pytest.raises(ValueError, match="val_0.png"):
        run(config)


def test_a_full_disk_keeps_the_previous_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=1))
    before = (tmp_path / "latest.pdparams").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        run(tiny_config(data, tmp_path, MODEL__RESUME="auto"))
    assert (tmp_path / "latest.pdparams").read_bytes() == before
    assert not [path for path in tmp_path.iterdir() if "tmp" in path.name or "partial" in path.name]


def test_another_total_batch_warns_or_scales_the_rate(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path / "a", TRAIN__TOTAL_BATCH=1024))
    run(tiny_config(data, tmp_path / "b", TRAIN__TOTAL_BATCH=1024, TRAIN__LINEAR_SCALED_LR=1024))
    first, second = ((tmp_path / name / "log.txt").read_text(encoding="utf-8") for name in "ab")
    assert "warning: the recipe's rate 0.01 is for a total batch of 1024, this run has 4" in first
    assert "learning rate scaled from 0.01 at batch 1024 to 3.90625e-05 at 4" in second
    assert "warning: the recipe" not in second


def test_mixed_precision_on_a_cpu_warns(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, AMP=True, TRAIN__NUM_EPOCHS=1))
    assert "-amp changes nothing here" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert paddle.get_default_dtype() == "float32"
