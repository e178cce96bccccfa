"""Knowledge distillation: what the teacher sees, the loss, the classes, and what checkpoints hold."""

from __future__ import annotations

import json
import re

import numpy as np
import paddle
import pytest

from beit.checkpoint.files import read, write
from beit.metadata.files import RUN_CONFIG_KEY
from beit.tasks.classify import Classify
from beit.tasks.losses import hard_distillation, soft_distillation
from beit.train.run import run
from beit.train.teacher import load_teacher
from tests.tiny import QUIET, different_weights, load_weights, log_of, randomize, tiny_config

DISTILL = "TRAIN__DISTILL__"


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """The folder of a run at another image size, with another mean and standard deviation."""
    folder = tmp_path_factory.mktemp("teacher")
    keys = {
        "DATA__IMAGE_SIZE": 24,
        "DATA__IMAGENET_MEAN": [0.4, 0.5, 0.6],
        "DATA__IMAGENET_STD": [0.2, 0.3, 0.4],
    }
    run(tiny_config(data, folder, MODEL__EMBED_DIM=12, TRAIN__NUM_EPOCHS=1, **keys))
    return folder


def with_teacher(source, names=None, **keys):
    """A task with the teacher, both with random weights that have an effect."""
    task = randomize(Classify(tiny_config(**QUIET | {f"{DISTILL}TEACHER": str(source)} | keys)))
    note = load_teacher(task, names)
    return task, note


def batch_of(task):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    batch = {"image": pixels, "label": np.array([0, 2, 1, 1]), "erase": np.zeros((4, 1, 4), np.int32)}
    return {name: paddle.to_tensor(value) for name, value in batch.items()}


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_the_loss_is_the_weighted_sum_on_the_same_mixed_images(teacher, kind):
    keys = {f"{DISTILL}KIND": kind, f"{DISTILL}WEIGHT": 0.3, f"{DISTILL}TEMPERATURE": 2.0}
    task, note = with_teacher(teacher, TRAIN__MIXUP_ALPHA=0.8, **keys)
    assert note == f"teacher: {teacher}, 3 classes; images are normalized again for it"
    randomize(task.teacher.model, seed=3)
    seen, model = [], task.teacher.model
    object.__setattr__(task.teacher, "model", lambda images: seen.append(images) or model(images))
    task.train()
    found = task(batch_of(task), np.random.default_rng(0))
    images, _ = task.mixup(
        task.normalize(batch_of(task)["image"]), batch_of(task)["label"], np.random.default_rng(0)
    )
    pixels = (images.numpy().transpose(0, 2, 3, 1) * 0.5 + 0.5 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(np.concatenate(seen).transpose(0, 2, 3, 1), pixels, atol=1e-5)
    assert not model.training
    logits, other = task.model(images), paddle.concat([model(image) for image in seen])
    taught = hard_distillation(logits, other) if kind == "hard" else soft_distillation(logits, other, 2.0)
    assert float(found["loss_teacher"]) == pytest.approx(float(taught), rel=1e-5)
    expected = 0.7 * float(found["loss_labels"]) + 0.3 * float(taught)
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-5)
    found["loss"].backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_run_learns_from_the_teacher_and_keeps_it_out_of_its_files(data, teacher, tmp_path):
    run(tiny_config(data, tmp_path / "plain"))
    run(tiny_config(data, tmp_path / "taught", **{f"{DISTILL}TEACHER": str(teacher)}))
    assert different_weights(tmp_path / "plain", tmp_path / "taught") != []
    log = log_of(tmp_path / "taught")
    assert f"teacher: {teacher}, 3 classes" in log and "loss_teacher" in log
    for name in ("model.pdparams", "best.pdparams"):
        plain = load_weights(tmp_path / "plain" / name)
        assert load_weights(tmp_path / "taught" / name).keys() == plain.keys()
    states = [read(tmp_path / run / "latest.pdparams").tree for run in ("plain", "taught")]
    assert states[0].keys() == states[1].keys()
    assert states[0]["model"].keys() == states[1]["model"].keys()
    assert states[0]["optimizer"].keys() == states[1]["optimizer"].keys()


@pytest.mark.parametrize("keys", [{"KIND": "hard"}, {"WEIGHT": 0.9}, {"TEMPERATURE": 4.0}])
def test_every_key_changes_the_loss(teacher, keys):
    losses = []
    for options in ({}, keys):
        task, _ = with_teacher(teacher, **{f"{DISTILL}{name}": value for name, value in options.items()})
        randomize(task.teacher.model, seed=3)
        losses.append(float(task(batch_of(task), np.random.default_rng(0))["loss"]))
    assert abs(losses[0] - losses[1]) > 1e-3


@pytest.fixture
def named(teacher, tmp_path):
    """The teacher's weights with class names."""
    file = read(teacher / "model.pdparams")
    write(
        tmp_path / "model.pdparams",
        file.tree,
        metadata=file.metadata | {"class_names": '["cat", "dog", "owl"]'},
    )
    return tmp_path / "model.pdparams"


def test_classes_are_matched_by_name(teacher, named):
    task, note = with_teacher(named, ("owl", "cat"), MODEL__NUM_CLASSES=2)
    assert note == f"teacher: {named}, 3 classes, matched by name; images are normalized again for it"
    plain, _ = with_teacher(teacher)
    images = task.normalize(batch_of(task)["image"])
    np.testing.assert_array_equal(
        task.teacher.logits(images).numpy(), plain.teacher.logits(images).numpy()[:, [2, 0]]
    )
    plain, note = with_teacher(named, ("x", "y", "z"), DATA__MATCH_CLASS_NAMES=False)
    assert plain.teacher.outputs is None
    with pytest.raises(
        ValueError, match=r"1 classes of the data \(.?wolf.?\) are not classes of the teacher"
    ):
        with_teacher(named, ("owl", "cat", "wolf"))


def test_other_numbers_of_classes_and_other_models_are_refused(data, teacher, tmp_path):
    with pytest.raises(ValueError, match="has 3 classes, the run has 4, and not both name them"):
        with_teacher(teacher, MODEL__NUM_CLASSES=4)
    encoder = {
        name: value for name, value in load_weights(teacher / "model.pdparams").items() if "head" not in name
    }
    cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9, "input_size": [3, 24, 24]}
    write(tmp_path / "encoder.pdparams", encoder, metadata={"pretrained_cfg": json.dumps(cfg)})
    with pytest.raises(ValueError, match="is not a classifier; name the weights of one"):
        with_teacher(tmp_path / "encoder.pdparams")
    with pytest.raises(FileNotFoundError, match="gone does not exist"):
        with_teacher("gone")


def test_a_teacher_of_several_labels_is_refused(teacher, tmp_path):
    """Its logits have sigmoids; the loss takes their softmax."""
    file = read(teacher / "model.pdparams")
    config = file.metadata[RUN_CONFIG_KEY].replace("TASK: classify", "TASK: multilabel")
    config = re.sub("LOSS: .*", "LOSS: bce", config, count=1)
    write(tmp_path / "several.pdparams", file.tree, metadata=file.metadata | {RUN_CONFIG_KEY: config})
    with pytest.raises(ValueError, match="several.pdparams gives images several labels; name a classifier"):
        with_teacher(tmp_path / "several.pdparams")


def test_other_tasks_have_no_teacher_and_say_so(data, tmp_path):
    keys = {f"{DISTILL}TEACHER": "gone", "TASK": "probe", "TRAIN__MAX_STEPS": 1, "TRAIN__WARMUP_EPOCHS": 0}
    run(tiny_config(data, tmp_path, **keys))
    assert "TRAIN.DISTILL.TEACHER = 'gone' has no effect in TASK: probe, only in classify" in log_of(tmp_path)


def test_keys_without_a_teacher_are_refused():
    with pytest.raises(ValueError, match="KIND = hard has no effect with TRAIN.DISTILL.TEACHER = None; set"):
        tiny_config(**{f"{DISTILL}KIND": "hard"})
