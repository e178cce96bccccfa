"""Whole runs in this process: train, evaluate, stop, resume; and the effect of each key of the loop."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import paddle
import pytest

from beit.predict.inference import load_predictor
from beit.train.run import run
from beit.train.state import NonFiniteLossError
from tests.data.packed import png, write_tree
from tests.tiny import QUIET, log_of, losses, tiny_config, write_dataset


def test_training_learns_and_writes_all_files(data: Path, tmp_path: Path) -> None:
    metrics = run(tiny_config(data, tmp_path, TRAIN__NUM_EPOCHS=6, VALIDATE_FREQ=2, KEEP_LAST=2, **QUIET))
    assert metrics["count"] == 10
    assert metrics["top1"] == 100.0
    assert losses(tmp_path)[-1] < losses(tmp_path)[0]
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {
        "card.md", "config.yaml", "log.txt", "metrics.jsonl", "visualdl", "latest.pdparams", "best.pdparams", "model.pdparams",
        "epoch_0005.pdparams", "epoch_0006.pdparams", "classes.csv",
    }  # fmt: skip
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert log.count("evaluation after epoch") == 3
    assert "total batch 4 = 1 rank(s) x 4 images x 1 micro-batch(es)" in log


@pytest.mark.parametrize(
    ("keys", "epochs"),
    [({"TRAIN__LAST_EPOCH": 2}, "2"), ({"TRAIN__LAST_EPOCH": 1, "TRAIN__MAX_STEPS": 3}, "0.5")],
)
def test_a_run_without_a_step_left_is_refused(
    data: Path, tmp_path: Path, keys: dict[str, Any], epochs: str
) -> None:
    with pytest.raises(ValueError, match=f"leaves nothing to train: the run has {epochs} epochs"):
        run(tiny_config(data, tmp_path, **keys))
    assert not (tmp_path / "model.pdparams").exists()
    last = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()[-1]
    assert "the run ended: " in last and "leaves nothing to train" in last


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
    assert again["top1"] == trained["top1"]
    assert again["loss"] == pytest.approx(trained["loss"], rel=1e-6)  # an engine may evaluate
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


def test_classes_without_training_images_are_named(tmp_path: Path) -> None:
    data, output = write_dataset(tmp_path / "data"), tmp_path / "run"
    run(tiny_config(data, output, MODEL__NUM_CLASSES=5, TRAIN__MAX_STEPS=1, TRAIN__WARMUP_EPOCHS=0.1))
    assert "note: classes without training images (2): 3, 4" in log_of(output)


def test_a_second_run_does_not_overwrite_the_first(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path))
    with pytest.raises(ValueError, match="already holds a training run; continue it with -resume auto"):
        run(tiny_config(data, tmp_path))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"EVAL": True}, "-eval needs the weights to evaluate: -pretrained FILE"),
        ({"DATA__DATA_PATH": "/does/not/exist"}, "DATA.DATA_PATH=/does/not/exist does not exist"),
        ({"DATA__BATCH_SIZE": 1000}, "batch larger than the data"),
        ({"MODEL__NUM_CLASSES": 2}, "train_list.txt:3: "),
        ({"MODEL__NUM_CLASSES": 0}, "TASK: classify needs at least one class"),
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


def test_mixed_precision_on_a_cpu_warns(data: Path, tmp_path: Path) -> None:
    run(tiny_config(data, tmp_path, AMP=True, TRAIN__NUM_EPOCHS=1))
    assert "-amp changes nothing here" in (tmp_path / "log.txt").read_text(encoding="utf-8")
    assert paddle.get_default_dtype() == "float32"


def test_class_folders_whose_names_begin_with_their_number_keep_it(tmp_path: Path) -> None:
    """The numbers in a list of classes are no part of the names, as in the lists of PaddleClas."""
    names = ("0 cat", "1 dog", "2 owl")
    files = {
        f"{split}/{name}/{k}.png": png(60 * k)
        for split in ("train", "val")
        for name in names
        for k in range(2)
    }
    write_tree(tmp_path / "data", files)
    keys = QUIET | {"DATA__DATASET": "folder", "TRAIN__NUM_EPOCHS": 1}
    run(tiny_config(tmp_path / "data", tmp_path / "run", **keys))
    assert load_predictor(tmp_path / "run").class_names == names
    weights = str(tmp_path / "run" / "model.pdparams")
    metrics = run(
        tiny_config(tmp_path / "data", tmp_path / "eval", EVAL=True, MODEL__PRETRAINED=weights, **keys)
    )
    assert metrics["count"] == 6


@pytest.mark.parametrize("name", ["a\nb", " a"])
def test_class_names_that_no_line_holds_are_refused_before_the_first_step(tmp_path: Path, name: str) -> None:
    files = {
        f"{split}/{folder}/{k}.png": png(60 * k)
        for split in ("train", "val")
        for folder in (name, "c")
        for k in range(2)
    }
    write_tree(tmp_path / "data", files)
    keys = QUIET | {"DATA__DATASET": "folder", "MODEL__NUM_CLASSES": 2}
    with pytest.raises(ValueError, match="has a line break or a blank at an end"):
        run(tiny_config(tmp_path / "data", tmp_path / "run", **keys))
    assert "step 1/" not in log_of(tmp_path / "run")
