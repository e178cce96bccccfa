"""The losses of fine-tuning as the config chooses them."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.data.mixup import soft_targets
from beit.tasks.classify import Classify
from beit.tasks.losses import binary_cross_entropy
from tests.tiny import QUIET, randomize, tiny_config

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
        ({"TRAIN__BCE_THRESHOLD": 0.0}, "TRAIN.BCE_THRESHOLD = 0.0 needs TRAIN.LOSS = bce; it is ce"),
        ({"TRAIN__BCE_SUM": True}, "TRAIN.BCE_SUM = True needs TRAIN.LOSS = bce"),
        ({"TRAIN__LOSS": "bce", "TASK": "probe"}, "TRAIN.LOSS = bce is for TASK: classify, not probe"),
        ({"TRAIN__LOSS": "focal"}, "expected one of 'ce', 'bce'"),
    ],
)
def test_options_of_another_loss_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**keys)
