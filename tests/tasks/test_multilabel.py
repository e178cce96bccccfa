"""Images with any number of labels: targets, metrics, and whole runs."""

from __future__ import annotations

import csv
import json

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.__main__ import main
from beit.checkpoint.files import write
from beit.models.views import view_logits
from beit.tasks.classify import Classify
from beit.tasks.metrics import average_precision
from beit.tasks.multilabel import MultiLabel
from beit.train.run import run
from tests.tiny import QUIET, different_weights, load_weights, randomize, tiny_config, write_dataset

MULTI = {"TASK": "multilabel", "TRAIN__LOSS": "bce"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Noise that is red, green and blue as the labels say; each set of labels, also the empty one, occurs."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 10)):
        lines = []
        for k in range(count):
            labels = [label for label in range(3) if k % 8 >> label & 1]
            pixels = rng.integers(0, 100, (18, 20, 3))
            pixels[..., labels] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{split}_{k}.png")
            lines.append(f"{split}_{k}.png {','.join(map(str, labels)) or '-'}\n")
        (root / f"{split}_list.txt").write_text("".join(lines))
    (root / "class_names.txt").write_text("ant\nbee\ncow\n")
    return root


def test_average_precision_equals_that_of_scikit_learn():
    """Stored with scikit-learn 1.9.1, `average_precision_score(truth[:, k], logits[:, k])`; there are equal scores."""
    truth, logits = example()
    expected = [74.5852, 53.5714, 53.0003, np.nan]
    np.testing.assert_allclose(average_precision(logits, truth), expected, atol=1e-4)
    assert len(np.unique(logits[:, 0])) < 50


def example():
    rng = np.random.default_rng(7)
    truth = rng.random((50, 4)) < [0.5, 0.2, 0.1, 0.0]
    return truth, np.round(rng.standard_normal((50, 4)) + truth, 1) - 0.45


def test_metrics_equal_those_of_scikit_learn(tmp_path):
    """Stored with scikit-learn 1.9.1, of `logits >= 0`: `f1_score(average="macro", zero_division=np.nan)`, `"micro"`, and
    `precision_recall_fscore_support(average=None, zero_division=np.nan)`."""
    task = MultiLabel(tiny_config(MODEL__NUM_CLASSES=4, **MULTI))
    task.truth, logits = example()
    sums = {"count": 50.0, "loss": 25.0, "logits": logits}
    metrics = task.metrics(sums)
    assert metrics["mAP"] == pytest.approx((74.5852 + 53.5714 + 53.0003) / 3, abs=1e-4)
    assert metrics["macro_f1"] == pytest.approx(40.84476843910806, rel=1e-9)
    assert metrics["micro_f1"] == pytest.approx(50.43478260869565, rel=1e-9)
    assert (metrics["loss"], metrics["count"]) == (0.5, 50)
    task.write_report(tmp_path, sums, {})
    rows = list(csv.DictReader((tmp_path / "classes.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["precision"] for row in rows] == ["64.29", "31.25", "37.50", "0.00"]
    assert [row["recall"] for row in rows] == ["72.00", "83.33", "75.00", ""]
    assert [row["f1"] for row in rows] == ["67.92", "45.45", "50.00", "0.00"]
    assert [row["average_precision"] for row in rows] == ["74.59", "53.57", "53.00", ""]
    assert [row["class"] for row in rows] == ["0", "1", "2", "3"]


def test_the_threshold_is_a_probability():
    """sigmoid(0.95) = 0.721"""
    task = MultiLabel(tiny_config(MODEL__NUM_CLASSES=4, TEST__THRESHOLD=0.72, **MULTI))
    task.truth, logits = example()
    predicted = logits >= 0.9499
    expected = 200 * (predicted & task.truth).sum() / (predicted.sum() + task.truth.sum())
    assert task.metrics({"count": 50, "loss": 1.0, "logits": logits})["micro_f1"] == pytest.approx(expected)


def batch_of(labels):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    batch = {"image": pixels, "label": np.asarray(labels), "erase": np.zeros((4, 1, 4), np.int32)}
    return {name: paddle.to_tensor(value) for name, value in batch.items()}


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_images_with_one_label_have_the_loss_of_classify(mixup):
    """The same targets, smoothed and mixed."""
    keys = QUIET | {"TRAIN__LOSS": "bce", "TRAIN__MIXUP_ALPHA": mixup}
    one, several = Classify(tiny_config(**keys)), MultiLabel(tiny_config(**keys | MULTI))
    for task in (one, several):
        randomize(task).eval()
    labels = [0, 2, 1, 1]
    first = one(batch_of(labels), np.random.default_rng(3))["loss"]
    second = several(batch_of(np.eye(3)[labels].astype(bool)), np.random.default_rng(3))["loss"]
    assert float(first) == float(second)


def test_mixed_images_have_the_labels_of_both_in_their_shares():
    task = MultiLabel(tiny_config(**QUIET | MULTI | {"TRAIN__MIXUP_ALPHA": 0.8, "TRAIN__SMOOTHING": 0.0}))
    labels = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]], bool)
    batch = batch_of(labels)
    _, targets = task.mixup(task.normalize(batch["image"]), batch["label"], np.random.default_rng(3))
    share = np.random.default_rng(3)
    share.random()
    share = np.float32(share.beta(0.8, 0.8))
    np.testing.assert_allclose(targets.numpy(), share * labels + (1 - share) * labels[::-1], rtol=1e-6)


def test_the_sums_of_batches_hold_each_image_once(data):
    task = randomize(MultiLabel(tiny_config(data, **QUIET | MULTI)))
    task.eval()
    dataset = task.dataset("val")
    images = np.random.default_rng(1).integers(0, 256, (10, 3, 16, 16), np.uint8)
    order = np.random.default_rng(2).permutation(10)

    def sums(part):
        batch = {"image": images[part], "label": dataset.images.labels[part], "index": part}
        return task.eval_step({name: paddle.to_tensor(value) for name, value in batch.items()})

    parts = [sums(order[:3]), sums(order[3:4]), sums(order[4:])]
    logits = task.model(task.normalize(paddle.to_tensor(images)))
    np.testing.assert_allclose(sum(part["logits"] for part in parts).numpy(), logits.numpy(), atol=1e-5)
    assert sum(int(part["count"]) for part in parts) == 10
    targets = paddle.to_tensor(dataset.images.labels.astype("float32"))
    expected = paddle.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert sum(float(part["loss"]) for part in parts) / 10 == pytest.approx(float(expected), rel=1e-6)


def test_views_of_independent_classes_are_averaged_as_probabilities():
    views = paddle.to_tensor(np.random.default_rng(4).standard_normal((2, 5, 3, 4, 4)).astype("float32"))

    def model(images):
        return 30 * images.mean(axis=[2, 3])

    found = view_logits(model, views, flip=False, independent=True)
    expected = paddle.stack([paddle.nn.functional.sigmoid(model(view)) for view in views.unbind(1)]).mean(0)
    np.testing.assert_allclose(paddle.nn.functional.sigmoid(found).numpy(), expected.numpy(), rtol=1e-5)
    assert np.isfinite(
        view_logits(lambda x: 1000 * model(x), views, flip=True, independent=True).numpy()
    ).all()


def test_a_run_learns_and_evaluates_to_the_same_metrics(data, tmp_path):
    keys = QUIET | MULTI | {"TRAIN__NUM_EPOCHS": 8, "TRAIN__SMOOTHING": 0.0, "KEEP_LAST": 1}
    trained = run(tiny_config(data, tmp_path / "run", **keys))
    assert trained["mAP"] > 90 and trained["count"] == 10
    result = beit.evaluate(tmp_path / "run", output=tmp_path / "eval", batch_size=3)
    report = json.loads((tmp_path / "eval" / "eval.json").read_text())
    for name in ("mAP", "macro_f1", "micro_f1", "loss"):
        assert result.metrics[name] == report[name] == pytest.approx(trained[name], rel=1e-5)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "no effect" not in log and "mAP 100.0000" in log
    assert [row.split(",")[1] for row in (tmp_path / "eval" / "classes.csv").read_text().splitlines()] == [
        "class", "ant", "bee", "cow",
    ]  # fmt: skip


def test_labels_are_matched_by_name(data, tmp_path):
    run(tiny_config(data, tmp_path / "run", **QUIET | MULTI | {"TRAIN__NUM_EPOCHS": 1}))
    task = MultiLabel(tiny_config(data, **MULTI))
    task.load(str(tmp_path / "run" / "model.pdparams"))
    before = task.dataset("val").images.labels
    (data / "class_names.txt").write_text("cow\nant\nbee\n")
    after = task.dataset("val").images.labels
    (data / "class_names.txt").write_text("ant\nbee\ncow\n")
    np.testing.assert_array_equal(after, before[:, [1, 2, 0]])  # label 1 of the data is ant, the first output


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"TASK": "multilabel"}, "TASK: multilabel needs TRAIN.LOSS = bce; it is ce"),
        (MULTI | {"DATA__DATASET": "folder"}, r"DATA.DATASET = folder has one label for each image; TASK: multilabel"),
    ],
)  # fmt: skip
def test_errors_name_the_fix(data, keys, message):
    with pytest.raises(ValueError, match=message):
        MultiLabel(tiny_config(data, **keys)).dataset("train")


def test_images_without_any_label_are_refused_before_training(tmp_path):
    write_dataset(tmp_path)
    lines = (tmp_path / "val_list.txt").read_text().splitlines()
    (tmp_path / "val_list.txt").write_text("".join(f"{line.rsplit(' ', 1)[0]} -\n" for line in lines))
    with pytest.raises(ValueError, match="no validation image in .* has a label"):
        MultiLabel(tiny_config(tmp_path, **MULTI)).dataset("val")


def test_predict_and_check(data, tmp_path, capsys):
    """The threshold of the run is stored; views average sigmoids; `check` counts the images of each class."""
    keys = QUIET | MULTI | {"TRAIN__NUM_EPOCHS": 2, "TEST__THRESHOLD": 0.4, "TEST__FLIP": True}
    run(tiny_config(data, tmp_path / "run", **keys))
    image = str(data / "val_7.png")
    predictor = beit.load_predictor(tmp_path / "run")
    views = predictor.tensor([predictor.open(image)])
    both = [paddle.nn.functional.sigmoid(predictor.model(view)).numpy()[0] for view in (views, views.flip(3))]
    scores = sum(both) / 2
    result = beit.inference_model(predictor, image)
    np.testing.assert_allclose(result["pred_scores"], scores, rtol=1e-5)
    assert predictor.threshold == 0.4
    capsys.readouterr()
    for threshold in (None, 0.0, float(np.sort(scores)[1]) - 1e-4, 1.0):
        flags = [] if threshold is None else ["--threshold", str(threshold)]
        assert main(["predict", str(tmp_path / "run"), image, "--csv", "--device", "cpu", *flags]) == 0
        rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
        expected = [k for k in np.argsort(-scores) if scores[k] >= (0.4 if threshold is None else threshold)]
        assert [row["class"] for row in rows] == [("ant", "bee", "cow")[k] for k in expected] or [""]
    assert main(["predict", str(tmp_path / "run"), image, "--threshold", "1", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.split() == [image, "no", "class"]
    config = str(tmp_path / "run" / "config.yaml")
    assert main(["check", f"-cfg={config}", "--skip-step", "-device=cpu"]) == 0
    out = capsys.readouterr().out
    assert "3 classes, 12 to 12 images each, median 12" in out
    assert "1.50 labels an image on average, 3 at most, 3 images have none" in out


def test_csv_files_give_the_same_run_as_lists(data, tmp_path):
    keys = QUIET | MULTI | {"TRAIN__MAX_STEPS": 3, "TRAIN__WARMUP_EPOCHS": 0.0}
    run(tiny_config(data, tmp_path / "list", **keys))
    for split in ("train", "val"):
        lines = [line.rsplit(" ", 1) for line in (data / f"{split}_list.txt").read_text().splitlines()]
        rows = [f"{name},{','.join(str(int(str(k) in labels)) for k in range(3))}" for name, labels in lines]
        (data / f"{split}.csv").write_text("\n".join(["path,ant,bee,cow", *rows]))
    run(tiny_config(data, tmp_path / "csv", DATA__DATASET="csv", **keys))
    assert different_weights(tmp_path / "list", tmp_path / "csv") == []
    assert (tmp_path / "csv" / "class_names.txt").read_text() == "ant\nbee\ncow\n"


@pytest.mark.parametrize(
    ("publisher", "name", "threshold"),
    [("canonical", "a.safetensors", 0.4), ("huggingface", "folder", 0.4), ("unilm", "a.pth", 0.5)],
)
def test_converted_weights_keep_sigmoids(data, tmp_path, publisher, name, threshold):
    """A file of PyTorch has no place for the config of the run: its JSON states several labels, without the threshold."""
    run(
        tiny_config(
            data, tmp_path / "run", **QUIET | MULTI | {"TRAIN__NUM_EPOCHS": 1, "TEST__THRESHOLD": 0.4}
        )
    )
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / name), f"--to={publisher}"]) == 0
    if publisher == "huggingface":  # which keeps no config of the run
        assert "any number of the classes below" in (tmp_path / name / "card.md").read_text(encoding="utf-8")
    assert "any number of the classes below" in (tmp_path / "run" / "card.md").read_text(encoding="utf-8")
    found, own = (beit.load_predictor(tmp_path / place) for place in (name, "run"))
    assert (own.threshold, found.threshold) == (0.4, threshold)
    results = [each([each.open(data / "val_7.png")])[0]["pred_scores"] for each in (found, own)]
    np.testing.assert_allclose(*results, atol=1e-6)
    if name == "folder":
        config = json.loads((tmp_path / "folder" / "config.json").read_text())
        assert config["problem_type"] == "multi_label_classification"


def test_weights_of_transformers_with_several_labels(data, tmp_path):
    """`problem_type` of config.json is read, without any config of this package."""
    run(tiny_config(data, tmp_path / "run", **QUIET | MULTI | {"TRAIN__NUM_EPOCHS": 1}))
    assert main(["convert", str(tmp_path / "run"), str(tmp_path / "folder"), "--to=huggingface"]) == 0
    weights = load_weights(tmp_path / "folder" / "model.safetensors")
    write(tmp_path / "folder" / "model.safetensors", weights)  # without metadata
    assert beit.load_predictor(tmp_path / "folder").threshold == 0.5
    file = tmp_path / "folder" / "config.json"
    file.write_text(file.read_text().replace("multi_label_classification", "single_label_classification"))
    assert beit.load_predictor(tmp_path / "folder").threshold is None
