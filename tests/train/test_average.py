"""Averages of checkpoints: numbers, choice of the checkpoints, measured metrics, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import beit
from beit.__main__ import main
from beit.checkpoint.files import read, write, write_checkpoint
from beit.parallel.signals import EXIT_STOPPED
from beit.train import average as averaging
from beit.train.run import run
from tests.tiny import load_weights, tiny_config, write_dataset

EPOCHS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The output folder of a run of four epochs, all of which it keeps."""
    root = tmp_path_factory.mktemp("average")
    config = tiny_config(
        write_dataset(root / "data"),
        root / "run",
        TRAIN__NUM_EPOCHS=EPOCHS,
        KEEP_LAST=EPOCHS,
        TRAIN__SMOOTHING=0.0,
    )
    run(config)
    return root / "run"


def epoch(folder, number):
    return folder / f"epoch_{number:04d}.pdparams"


def mean(*paths):
    states = [read(path).tree["model"] for path in paths]
    return {name: np.mean([state[name] for state in states], axis=0, dtype=np.float64) for name in states[0]}


def check(target, *paths):
    expected, found = mean(*paths), load_weights(target)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-9)
        assert found[name].dtype == np.float32


def top1(folder, weights, tmp_path):
    return beit.evaluate(folder, output=tmp_path / "evaluation", pretrained=weights).metrics["top1"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent/a.pdparams", "its folder does not exist; create"),
        ("a.txt", r"are a file that ends in \.pdparams or \.safetensors"),
        ("folder.pdparams", "it is a folder; name a file"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused_before_the_evaluations(
    folder, tmp_path, monkeypatch, name, reason
):
    monkeypatch.setattr(averaging, "evaluate", None)
    (tmp_path / "folder.pdparams").mkdir()
    with pytest.raises((OSError, ValueError), match=f"cannot write .*{name}.*{reason}"):
        beit.average(folder, tmp_path / name, last=2, measure=True)


def test_the_last_epochs_are_averaged_and_the_file_predicts(folder, tmp_path):
    target = tmp_path / "average.pdparams"
    found = beit.average(folder, target, last=3)
    assert found == (tuple(epoch(folder, number) for number in (2, 3, 4)), {}, None)
    check(target, *found.used)
    image = next((folder.parent / "data").rglob("*.png"))
    config = beit.get_config(folder / "config.yaml")
    scores = beit.inference_model(target, image, config=config)["pred_scores"]
    assert np.abs(scores - beit.inference_model(folder, image)["pred_scores"]).max() > 1e-6


def test_the_best_epochs_are_those_of_the_log(folder, tmp_path):
    top = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "val/top1" in entry:
            top[entry["step"]] = entry["val/top1"]
    assert len(top) == EPOCHS
    by_epoch = dict(enumerate((top[step] for step in sorted(top)), start=1))
    ranked = sorted(by_epoch, key=lambda number: -by_epoch[number])[:2]
    found = beit.average(folder, tmp_path / "average.pdparams", best=2)
    assert found.used == tuple(epoch(folder, number) for number in ranked)
    check(tmp_path / "average.pdparams", *found.used)


def test_measured_metrics_are_those_of_evaluations(folder, tmp_path):
    target = tmp_path / "average.pdparams"
    paths = [epoch(folder, 1), epoch(folder, 4)]
    found = beit.average(paths, target, measure=True)
    assert found.used == tuple(paths)
    assert found.scores == {path: top1(folder, path, tmp_path) for path in paths}
    assert found.score == top1(folder, target, tmp_path)


@pytest.mark.parametrize(
    ("alone", "together", "expected"),
    [
        ([50, 90, 70], {"bc": 91, "bca": 90}, "bc"),
        ([50, 90, 70], {"bc": 80, "ba": 90}, "ba"),  # equally good is added, as in the paper
        ([50, 90, 70], {"bc": 80, "ba": 89}, "b"),
        ([90, 90, 90], {"ab": 95, "abc": 96}, "abc"),
    ],
)
def test_the_greedy_soup_adds_what_does_not_make_it_worse(alone, together, expected):
    used, score = averaging._greedy(
        dict(zip("abc", alone, strict=True)), lambda members: together["".join(members)]
    )
    assert "".join(used) == expected
    assert score == together.get(expected, 90)


def test_a_greedy_soup_is_never_worse_than_its_best_member(folder, tmp_path, capsys):
    target = tmp_path / "soup.safetensors"
    words = [
        "average",
        str(target),
        str(epoch(folder, 4)),
        str(epoch(folder, 3)),
        "--greedy",
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert f"written: {target}" in out and str(epoch(folder, 4)) in out
    best = max(top1(folder, epoch(folder, number), tmp_path) for number in (3, 4))
    assert top1(folder, target, tmp_path) >= best


def test_checkpoints_of_two_models_are_refused(folder, tmp_path):
    state = load_weights(folder / "model.pdparams")
    other, target = tmp_path / "other.pdparams", tmp_path / "average.pdparams"
    state["head.weight"], state["head.bias"] = np.zeros((24, 5), np.float32), np.zeros(5, np.float32)
    write(other, state)
    with pytest.raises(
        ValueError, match=r"cannot be averaged: head.bias is \[5\] in one and \[3\] in the other"
    ):
        beit.average([folder / "model.pdparams", other], target)
    assert not target.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": 9}, "9 epochs are asked for, .* keeps 4; KEEP_LAST"),
        ({"best": 0}, "0 epochs are asked for, .* keeps 4"),
        ({"last": 1, "best": 1}, "the number of its last or of its best epochs"),
        ({}, "needs two checkpoints or more, got 1"),
    ],
)
def test_wrong_choices_are_refused(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        beit.average(folder, tmp_path / "average.pdparams", **options)


@pytest.mark.parametrize("status", [2, EXIT_STOPPED])
def test_ranks_that_fail_in_a_measurement_end_the_verb(folder, tmp_path, capsys, monkeypatch, status):
    """The config of a run that several ranks trained states NPROCS."""
    monkeypatch.setattr("beit.train.api.launch_ranks", lambda *_: status)
    monkeypatch.setattr("beit.train.api.num_ranks", lambda *_: 2)
    (tmp_path / "two.yaml").write_text(
        (folder / "config.yaml").read_text().replace("NPROCS: null", "NPROCS: 2")
    )
    words = ["average", str(tmp_path / "average.pdparams"), str(folder), "--last", "2", "--measure"]
    assert main([*words, "--cfg", str(tmp_path / "two.yaml"), "--device", "cpu"]) == status
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "see the messages above" in line or "stopped" in line
    assert not (tmp_path / "average.pdparams").exists()


def test_a_measurement_needs_a_config(folder, tmp_path):
    paths = [tmp_path / "a.pdparams", tmp_path / "b.pdparams"]
    for path in paths:
        write(path, load_weights(folder / "model.pdparams"))
    with pytest.raises(ValueError, match=r"no config\.yaml beside .*a\.pdparams: name the config"):
        beit.average(paths, tmp_path / "average.pdparams", measure=True)


def test_epochs_without_an_evaluation_are_named(folder, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.yaml", "epoch_0003.pdparams", "epoch_0004.pdparams"):
        (bare / name).write_bytes((folder / name).read_bytes())
    (bare / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1.0}\n')
    with pytest.raises(
        ValueError, match="epoch_0003.pdparams was not evaluated during training: set VALIDATE_FREQ"
    ):
        beit.average(bare, tmp_path / "average.pdparams", best=1)


@pytest.mark.parametrize("state", [{"model": {}}, [1]])
def test_a_file_with_the_name_of_an_epoch_that_is_no_training_state_is_named(folder, tmp_path, state):
    other = tmp_path / "run"
    other.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        (other / name).write_bytes((folder / name).read_bytes())
    write_checkpoint(other / "epoch_0001.pdparams", state)
    with pytest.raises(ValueError, match=r"epoch_0001\.pdparams has no 'step', .*name the files to average"):
        beit.average(other, tmp_path / "average.pdparams", best=1)
