"""The losses of fine-tuning as the config chooses them, and evaluation on some of the classes."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.beit import build_beit
from beit.config import dump
from beit.data.class_matching import KnownClasses
from beit.data.mixup import soft_targets
from beit.tasks.classify import Classify
from beit.tasks.losses import binary_cross_entropy
from beit.tasks.task_keys import unread_keys
from tests.tiny import QUIET, randomize, tiny_config, write_dataset

LABELS = [0, 2, 1, 1]


def task_and_batch(**keys):
    task = randomize(Classify(tiny_config(**QUIET | {"TRAIN__LOSS": "bce"} | keys)))
    task.eval()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), np.uint8)
    batch = {"image": pixels, "label": np.array(LABELS), "erase": np.zeros((4, 1, 4), np.int32)}
    return task, {name: paddle.to_tensor(value) for name, value in batch.items()}


@pytest.mark.parametrize(
    ("keys", "options"),
    [
        ({}, {}),
        ({"TRAIN__BCE_THRESHOLD": 0.0}, {"threshold": 0.0}),
        ({"TRAIN__BCE_SUM": True}, {"sum_classes": True}),
        ({"TRAIN__BCE_THRESHOLD": 0.5, "TRAIN__BCE_SUM": True}, {"threshold": 0.5, "sum_classes": True}),
    ],
)
def test_binary_cross_entropy_of_smoothed_labels(keys, options):
    task, batch = task_and_batch(**keys)
    loss = task(batch, np.random.default_rng(0))["loss"]
    logits = task.model(task.normalize(batch["image"]))
    targets = soft_targets(paddle.to_tensor(LABELS), 3, 0.1)
    assert float(loss) == pytest.approx(float(binary_cross_entropy(logits, targets, **options)), rel=1e-6)
    plain = float(binary_cross_entropy(logits, targets))
    assert not options or abs(float(loss) - plain) > 1e-3


def test_binary_cross_entropy_of_mixed_targets():
    """Every class of a mixed image is a target of 1, as in DeiT III."""
    keys = {"TRAIN__MIXUP_ALPHA": 0.8, "TRAIN__SMOOTHING": 0.0, "TRAIN__BCE_THRESHOLD": 0.0}
    task, batch = task_and_batch(**keys)
    loss = task(batch, np.random.default_rng(0))["loss"]
    images, mixed = task.mixup(
        task.normalize(batch["image"]), paddle.to_tensor(LABELS), np.random.default_rng(0)
    )
    targets = (mixed > 0).astype("float32")
    assert targets.sum(1).tolist() == [2.0] * 4
    expected = paddle.nn.functional.binary_cross_entropy_with_logits(task.model(images), targets)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"TRAIN__BCE_THRESHOLD": 0.0}, "TRAIN.BCE_THRESHOLD = 0.0 has no effect with TRAIN.LOSS = ce; set"),
        ({"TRAIN__BCE_SUM": True}, "TRAIN.BCE_SUM = True has no effect with TRAIN.LOSS"),
        ({"TRAIN__LOSS": "focal"}, "expected one of 'ce', 'bce'"),
    ],
)
def test_options_of_another_loss_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**keys)


def test_another_task_does_not_read_the_loss():
    lines = unread_keys(tiny_config(TRAIN__LOSS="bce", TASK="probe"))
    assert [line for line in lines if line.startswith("TRAIN.LOSS = 'bce' has no effect in TASK: probe")]


@pytest.fixture
def weights(tmp_path):
    """Weights of a run with the classes ant, bee and cow."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = tiny_config(output=folder)
    model = randomize(build_beit(config))
    (folder / "config.yaml").write_text(dump(config))
    (folder / "class_names.txt").write_text("ant\nbee\ncow\n")
    paddle.save(model.state_dict(), str(folder / "model.pdparams"))
    return folder


def evaluation(root, weights, names, **options):
    """Metrics and NumPy's logits and labels for images of the classes `names`."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for k in range(6):
                pixels = rng.integers(0, 256, (16, 16, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{k}.png")
    predictor = beit.load_predictor(weights)
    files = sorted((root / "val").rglob("*.png"))
    images = predictor.tensor([Image.open(file).convert("RGB") for file in files])
    logits = predictor.model(images).numpy()
    labels = np.array([sorted(names).index(file.parent.name) for file in files])
    given = {"data": root, "dataset": "folder", "output": root / "out"} | options
    return lambda: beit.evaluate(weights, **given).metrics, logits, labels


def test_some_classes_of_the_head_are_told_apart_among_themselves(tmp_path, weights):
    """As ImageNet-A and -R are evaluated: the outputs of the other classes do not take part."""
    run, logits, labels = evaluation(tmp_path / "data", weights, ("cow", "ant"), test__class_subset=True)
    metrics, chosen = run(), logits[:, [0, 2]]  # ant, cow
    assert metrics["count"] == 12 and metrics["top5"] == 100.0
    assert metrics["top1"] == pytest.approx(100 * (chosen.argmax(-1) == labels).mean())
    shifted = chosen - np.log(np.exp(chosen).sum(1, keepdims=True))
    assert metrics["loss"] == pytest.approx(-shifted[np.arange(12), labels].mean(), rel=1e-4)
    assert (logits.argmax(-1) == 1).any()  # otherwise the third class would not matter


def test_a_subset_must_be_allowed_and_known(tmp_path, weights):
    run, _, _ = evaluation(tmp_path / "a", weights, ("cow", "ant"))
    with pytest.raises(ValueError, match=r"TEST\.CLASS_SUBSET True"):
        run()
    run, _, _ = evaluation(tmp_path / "b", weights, ("cow", "dog"), test__class_subset=True)
    with pytest.raises(ValueError, match="dog"):
        run()
    run, _, _ = evaluation(
        tmp_path / "c", weights, ("cow", "ant"), test__class_subset=True, match_class_names=False
    )
    with pytest.raises(ValueError, match="need class names of the weights and of the data"):
        run()


def test_synsets_of_imagenet_name_their_outputs():
    """Both cranes are called crane; their synsets are not."""
    known = KnownClasses("imagenet-1k", "weights")
    assert known.outputs(["n03126707", "n02012849", "n01440764"]) == (517, 134, 0)


def test_an_evaluation_writes_the_scores_of_each_class(tmp_path, weights):
    """The table, the calibration error and the names are those of the classes of the data, in their order."""
    run, logits, labels = evaluation(tmp_path / "data", weights, ("cow", "ant"), test__class_subset=True)
    metrics, chosen = run(), logits[:, [0, 2]]  # ant, cow
    powers = np.exp(chosen - chosen.max(1, keepdims=True))
    confidence, right = (powers / powers.sum(1, keepdims=True)).max(1), chosen.argmax(1) == labels
    bins = np.ceil(confidence * 15)
    gaps = [abs((right[bins == k] - confidence[bins == k]).sum()) for k in range(1, 16)]
    assert metrics["ece"] == pytest.approx(100 * sum(gaps) / 12, rel=1e-3)
    lines = (tmp_path / "data" / "out" / "classes.csv").read_text().splitlines()
    assert lines[0] == "label,class,images,precision,recall,f1"
    recall = [100 * right[labels == k].mean() for k in (0, 1)]
    assert [line.split(",")[:3] + [line.split(",")[4]] for line in lines[1:]] == [
        ["0", "ant", "6", f"{recall[0]:.2f}"],
        ["1", "cow", "6", f"{recall[1]:.2f}"],
    ]


def test_names_of_the_table_come_from_the_weights_if_the_data_have_none(tmp_path, weights):
    data = write_dataset(tmp_path / "data")
    beit.evaluate(weights, data=data, output=tmp_path / "out")
    assert [line.split(",")[1] for line in (tmp_path / "out" / "classes.csv").read_text().splitlines()] == [
        "class",
        "ant",
        "bee",
        "cow",
    ]
