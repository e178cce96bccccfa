from __future__ import annotations

import json
import shutil

import numpy as np
import paddle
import pytest

from beit.data.sampler import Sample
from beit.data.scenes import write_scenes
from beit.parallel.launch import launch
from beit.tasks.losses import segmentation_cross_entropy
from beit.tasks.segment import Segment
from beit.train import run
from tests.tiny import SEGMENT, different_weights, load_weights, losses, tiny_config, train_as_rank


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), images={"train": 8, "val": 3})


def config_of(data, output, **keys):
    return tiny_config(data, output, **SEGMENT | keys)


def first_batch(task, count=2):
    dataset = task.dataset("train")
    samples = [dataset[Sample(k, k)] for k in range(count)]
    return {name: paddle.to_tensor(np.stack([s[name] for s in samples])) for name in samples[0]}


def test_trains_evaluates_and_writes_results(scenes, tmp_path):
    metrics = run.run(config_of(scenes, tmp_path / "out"))
    assert set(metrics) == {"mIoU", "mAcc", "aAcc", "count", "images_per_second"}
    assert metrics["count"] == 3
    assert np.isfinite(losses(tmp_path / "out")).all()
    result = json.loads((tmp_path / "out" / "segmentation.json").read_text())
    assert result["mIoU"] == pytest.approx(metrics["mIoU"], abs=1e-4)
    assert list(result["classes"]) == ["sky", "hill", "water", "house", "tree"]
    assert result["protocol"]["mode"] == "slide"
    table = (tmp_path / "out" / "segmentation.txt").read_text()
    assert "house" in table and f"mIoU {metrics['mIoU']:.2f}" in table
    assert (tmp_path / "out" / "class_names.txt").read_text().startswith("sky\n")

    # -eval of the final weights has the metrics of the last evaluation.
    config = config_of(
        scenes, tmp_path / "eval", EVAL=True, MODEL__PRETRAINED=str(tmp_path / "out" / "model.pdparams")
    )
    again = run.run(config)
    assert {k: again[k] for k in ("mIoU", "mAcc", "aAcc")} == {
        k: metrics[k] for k in ("mIoU", "mAcc", "aAcc")
    }


def test_absent_classes_stop_a_run_unless_allowed(scenes, tmp_path):
    keys = {"MODEL__NUM_CLASSES": 6, "TRAIN__MAX_STEPS": 1}
    root = shutil.copytree(scenes, tmp_path / "data")
    for name in ("class_names.txt", "palette.txt"):
        (root / name).unlink()
    with pytest.raises(
        ValueError, match="1 of 6 classes have no pixel in the masks: 5; .*ALLOW_ABSENT_CLASSES"
    ):
        run.run(config_of(root, tmp_path / "out", **keys))
    run.run(config_of(root, tmp_path / "out", DATA__ALLOW_ABSENT_CLASSES=True, **keys))


def test_a_resumed_run_equals_an_uninterrupted_one(scenes, tmp_path):
    # Four steps per epoch; the run ends within the second epoch, so the BatchNorm statistics must be restored.
    whole, part = tmp_path / "whole", tmp_path / "part"
    run.run(config_of(scenes, whole, TRAIN__MAX_STEPS=6))
    run.run(config_of(scenes, part, TRAIN__MAX_STEPS=6, MODEL__RESUME=str(whole / "epoch_0001.pdparams")))
    unbroken, resumed = losses(whole), losses(part)
    assert len(unbroken) == 6 and resumed == unbroken[4:]
    assert different_weights(whole, part) == []


@pytest.mark.slow
def test_two_ranks_train_and_evaluate_like_one(scenes, tmp_path):
    one = config_of(scenes, tmp_path / "one", DATA__BATCH_SIZE=4, MODEL__DECODER_DROPOUT=0.0)
    run.run(one)
    two = config_of(scenes, tmp_path / "two", DATA__BATCH_SIZE=2, MODEL__DECODER_DROPOUT=0.0)
    assert launch(train_as_rank, (two,), ranks=2, device="cpu", grace=5.0) == 0
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    single, distributed = (load_weights(tmp_path / name / "model.pdparams") for name in ("one", "two"))
    for name, value in single.items():
        np.testing.assert_allclose(distributed[name], value, atol=1e-3, err_msg=name)

    # The same weights, evaluated by one and by two ranks (three images), count the same pixels.
    pretrained = str(tmp_path / "one" / "model.pdparams")
    results = []
    for ranks in (1, 2):
        output = tmp_path / f"eval{ranks}"
        config = config_of(scenes, output, EVAL=True, MODEL__PRETRAINED=pretrained)
        if ranks == 1:
            run.run(config)
        else:
            assert launch(train_as_rank, (config,), ranks=2, device="cpu", grace=5.0) == 0
        results.append(json.loads((output / "segmentation.json").read_text()))
    assert results[0] == results[1]


def test_the_auxiliary_loss_is_weighted(scenes, tmp_path):
    sums = {}
    for weight in (0.0, 0.4):
        task = Segment(
            config_of(scenes, tmp_path, TRAIN__AUXILIARY_WEIGHT=weight, MODEL__DECODER_DROPOUT=0.0)
        )
        paddle.seed(0)
        task.model.apply(_fill)
        result = task(first_batch(task), np.random.default_rng(0))
        sums[weight] = {name: float(value) for name, value in result.items()}
    assert sums[0.0]["loss"] == pytest.approx(sums[0.0]["loss_logits"])
    assert sums[0.4]["loss"] == pytest.approx(sums[0.4]["loss_logits"] + 0.4 * sums[0.4]["loss_auxiliary"])
    assert 0 <= sums[0.4]["accuracy"] <= 100


def _fill(layer):
    for parameter in layer.parameters(include_sublayers=False):
        if not parameter.stop_gradient:
            parameter.set_value(paddle.full_like(parameter, 0.05))


def test_the_padding_of_normalized_crops_is_zero(scenes, tmp_path):
    task = Segment(config_of(scenes, tmp_path, DATA__IMAGE_SIZE=80, TRAIN__RESIZE_RATIO=[1.0, 1.0]))
    batch = first_batch(task)
    height, width = batch["box"].numpy()[0, 2:]
    images = task._train_images(batch).numpy()[0]
    assert (height, width) == (48, 64)
    assert (images[:, height:] == 0).all() and (images[:, :, width:] == 0).all()
    assert np.abs(images[:, :height, :width]).mean() > 0.1
    assert (batch["label"].numpy()[0, height:] == 255).all()
    assert task.preview(batch).shape == (160, 160, 3)


def test_heads_have_the_full_rate_and_blocks_the_layer_decay(scenes, tmp_path):
    task = Segment(config_of(scenes, tmp_path, TRAIN__LAYER_DECAY=0.5))
    rates = {group["layer"]: group["learning_rate"] for group in task.param_groups()}
    assert rates == {layer: 0.5 ** (5 - layer) for layer in range(6)}
    names = {p.name: name for name, p in task.model.named_parameters()}
    last = {names[p.name] for group in task.param_groups() if group["layer"] == 5 for p in group["params"]}
    assert any(name.startswith("backbone.fpn1") for name in last)
    assert {name.split(".")[0] for name in last} == {"backbone", "decode_head", "auxiliary_head"}


def test_invalid_configs_are_refused(scenes, tmp_path):
    with pytest.raises(ValueError, match="BATCH_SIZE_EVAL 1"):
        Segment(config_of(scenes, tmp_path, DATA__BATCH_SIZE_EVAL=2))
    with pytest.raises(ValueError, match="leaves gaps"):
        Segment(config_of(scenes, tmp_path, TEST__STRIDE=40))


def test_loss_counts_ignored_pixels_in_the_mean_as_the_official_code():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((2, 3, 4, 4)).astype("float32")
    labels = rng.integers(0, 3, (2, 4, 4))
    labels[0, :2] = 255
    got = float(
        segmentation_cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels.astype("uint8")))
    )
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    picked = [log_probs[b, labels[b, y, x], y, x] for b, y, x in np.argwhere(labels != 255)]
    assert got == pytest.approx(-sum(picked) / labels.size, rel=1e-5)
    resized = segmentation_cross_entropy(
        paddle.to_tensor(logits), paddle.to_tensor(labels.repeat(2, 1).repeat(2, 2))
    )
    assert np.isfinite(float(resized))
    with pytest.raises(ValueError, match="Label maps need logits"):
        segmentation_cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels[:1]))
