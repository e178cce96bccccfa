"""`python -m beit check` finds problems of data and recipes."""

from __future__ import annotations

import re
import shutil

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.data.check import check_split, overlap, shortened
from beit.tasks import TASKS
from beit.tools import check
from beit.train.step_check import StepReport, dry_step, settings_without_effect, training_seconds
from tests.tiny import TINY, options, tiny_config, write_dataset


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data")


def run(data, tmp_path, *flags, **keys):
    opts = map(str, options(TINY | keys))
    return check.main([f"-data_path={data}", f"-output={tmp_path / 'out'}", *flags, "-opts", *opts])


def test_a_good_data_set_has_no_problems(data, tmp_path, capsys):
    assert run(data, tmp_path) == 0
    shown = capsys.readouterr().out
    for part in (
        "train: 24 images, 0 unreadable",
        "smallest 20x18, median 20x18, largest 20x18",
        "3 classes, 8 to 8 images each",
        "in both splits: 0 images",
        "total batch 4 = 1 device(s) x 4 x 1",
        "6 steps an epoch, 12 in all, 6 of warm-up",
        "learning rate: peak 1.000e-02",
        "lr multiplier",
        "dry step: 4 images in",
        "no problems found",
    ):
        assert part in shown
    assert not (tmp_path / "out").exists()


def test_unreadable_and_shared_images_are_listed(data, tmp_path, capsys):
    images = data / "my images"
    (images / "train_0.png").write_bytes(b"")
    (images / "train_5.png").write_text("<html>")
    (images / "val_1.png").write_bytes((images / "val_1.png").read_bytes()[:200])
    shutil.copy(images / "train_2.png", images / "val_2.png")
    with (data / "val_list.txt").open("a") as file:
        file.write("my images/train_3.png 0\n")
    assert run(data, tmp_path, "--skip-step", DATA__NUM_WORKERS=2) == 1
    shown = capsys.readouterr().out
    for part in (
        "train_0.png: an empty file", "train_5.png: an HTML page", "val_1.png: cannot be decoded",
        "val_2.png has the bytes of", "train_3.png is in both splits", "5 problem(s)",
    ):  # fmt: skip
        assert part in shown


def test_the_trial_steps_go_on_after_unreadable_images(data, tmp_path, capsys):
    (data / "my images" / "train_0.png").write_bytes(b"")
    assert run(data, tmp_path) == 1
    shown = capsys.readouterr().out
    assert "dry step: 4 images in" in shown and "1 problem(s):" in shown
    assert not (tmp_path / "out").exists()


def test_an_unreadable_validation_image_is_one_problem(data, tmp_path, capsys):
    (data / "my images" / "val_0.png").write_bytes(b"")
    assert run(data, tmp_path) == 1
    shown = capsys.readouterr().out
    assert "1 problem(s):" in shown and "val_0.png: an empty file" in shown
    assert re.search("time and memory are not measured: .*val_0.png: an empty file", shown)


def test_problems_found_before_a_failed_trial_step_are_listed(data, tmp_path, capsys):
    for number in range(19):  # of 24 images; 20 problems are printed
        (data / "my images" / f"train_{number}.png").write_bytes(b"")
    assert run(data, tmp_path) == 1
    shown = capsys.readouterr().out
    assert "and so are the 9 images before it" in shown and "train_0.png: an empty file" in shown


def test_problems_found_before_a_data_worker_fails_are_listed(data, tmp_path, capsys):
    keys = {"TRAIN__TOTAL_BATCH": 8, "DATA__NUM_WORKERS": 1, "DATA__WORKER_TIMEOUT": 1e-3}
    assert run(data, tmp_path, "--skip-pictures", **keys) == 1
    shown = capsys.readouterr().out
    assert "2 problem(s):" in shown and "the rate 0.01 is for a total batch of 8" in shown
    assert "no batch within DATA.WORKER_TIMEOUT=0.001 seconds" in shown


def test_remarks_and_empty_classes(tmp_path):
    data = write_dataset(tmp_path / "data", train=23, classes=1)
    Image.fromarray(np.zeros((5, 9, 3), np.uint8)).save(data / "my images" / "train_0.png")
    lines = (data / "train_list.txt").read_text().splitlines()
    (data / "train_list.txt").write_text("\n".join([*lines[:-1], lines[-1][:-1] + "1"]) + "\n")
    task = TASKS["classify"](tiny_config(data, tmp_path / "out"))
    report = check_split("train", task.dataset("train"), 3, 16, workers=0)
    assert report.problems == ["train: 1 of 3 classes have no image: class 2"]
    assert "1 of 23 images are smaller than the model's 16 pixels" in report.remarks[1]
    assert "1 classes have less than a tenth" in report.remarks[0]
    assert overlap(report, report)[0].endswith("is in both splits")
    assert shortened([str(k) for k in range(30)])[-1] == "… and 10 more"


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"MODEL__DEPTH": 1}, "MODEL.DROPPATH = 0.2 has no effect"),
        ({"TRAIN__LAYER_DECAY": 0.5, "TRAIN__FREEZE_LAYERS": 3}, "TRAIN.LAYER_DECAY = 0.5 has no effect"),
        ({"TRAIN__TOTAL_BATCH": 8}, "the rate 0.01 is for a total batch of 8, this run has 4"),
        ({"TRAIN__WARMUP_EPOCHS": 5}, "the warm-up (30 steps) is longer than the run (12)"),
    ],
)
def test_problems_of_recipes(data, tmp_path, capsys, keys, reason):
    assert run(data, tmp_path, "--skip-pictures", "--skip-step", **keys) == 1
    assert reason in capsys.readouterr().out


def test_settings_with_an_effect_are_no_problem(data, tmp_path):
    config = tiny_config(data, tmp_path, TRAIN__LAYER_DECAY=0.5)
    assert settings_without_effect(TASKS["classify"](config)) == []


def test_a_loss_that_is_not_finite_is_refused(data, tmp_path):
    task = TASKS["classify"](tiny_config(data, tmp_path))
    task.model.head.weight.set_value(paddle.full_like(task.model.head.weight, float("nan")))
    with pytest.raises(ValueError, match="the loss of a first step is nan"):
        dry_step(task, task.dataset("train"))


def test_more_devices_make_a_larger_batch(data, tmp_path, capsys):
    assert run(data, tmp_path, "--skip-pictures", "--skip-step", "--ranks", "3") == 0
    assert "total batch 12 = 3 device(s) x 4 x 1" in capsys.readouterr().out


def test_the_time_of_a_training_counts_steps_and_evaluations(tmp_path):
    step = StepReport(
        seconds=0.5, wait_seconds=0.0, evaluation_seconds=0.125, images=4, peak_bytes=0, where="", loss=1.0
    )
    config = tiny_config(tmp_path, VALIDATE_FREQ=2, TRAIN__NUM_EPOCHS=6)
    assert training_seconds(config, step, 24, 0) == 6 * 6 * 0.5
    assert training_seconds(config, step, 24, 48) == 6 * 6 * 0.5 + 3 * 48 * 0.125


def test_check_prints_the_time_of_the_whole_training(data, tmp_path, capsys):
    run(data, tmp_path, "--skip-pictures")
    shown = capsys.readouterr().out
    assert "training on one device of this machine takes about" in shown
    assert "% of it waiting for data" in shown


def test_the_trial_hardly_changes_the_weights(data, tmp_path):
    task = TASKS["classify"](tiny_config(data, tmp_path, TRAIN__MODEL_EMA=True))
    before = task.model.head.weight.numpy().copy()
    report = dry_step(task, task.dataset("train"))
    assert report.seconds > 0 and 0 <= report.wait_seconds <= report.seconds and report.images == 4
    assert report.evaluation_seconds > 0
    np.testing.assert_allclose(task.model.head.weight.numpy(), before, atol=1e-4)
