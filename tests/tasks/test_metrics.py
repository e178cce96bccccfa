"""Metrics compared with a stable sort in NumPy and with one large batch."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.tasks.class_table import class_scores
from beit.tasks.metrics import (
    calibration_error,
    calibration_sums,
    class_sums,
    classification_metrics,
    classification_sums,
    topk_correct,
)


def stable_topk(logits, labels, k):
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return int((order == labels[:, None]).any(axis=1).sum())


@pytest.mark.parametrize("levels", [3, 1000])
def test_topk_equals_a_stable_sort(levels):
    """With few distinct values there are many ties, also with the logit of the label."""
    rng = np.random.default_rng(levels)
    logits = rng.integers(0, levels, (64, 9)).astype("float32")
    labels = rng.integers(0, 9, 64)
    counts = topk_correct(paddle.to_tensor(logits), paddle.to_tensor(labels), ks=(1, 2, 5, 9, 20))
    assert {name: int(count) for name, count in counts.items()} == {
        **{f"top{k}": stable_topk(logits, labels, k) for k in (1, 2, 5, 9)},
        "top20": 64,
    }
    assert all(count.shape == [] and count.dtype == paddle.int64 for count in counts.values())
    assert int(counts["top1"]) == int((logits.argmax(axis=1) == labels).sum())


def test_nan_is_never_correct():
    nan = float("nan")
    logits = paddle.to_tensor([[nan, nan], [1.0, nan], [nan, 1.0], [2.0, 1.0]])
    counts = topk_correct(logits, paddle.to_tensor([0, 0, 0, 0]))
    assert int(counts["top1"]) == 1
    assert int(counts["top5"]) == 2, "a NaN beside the label only ranks before it"


def test_low_precision_logits():
    logits = paddle.to_tensor([[1.0, 2.0, 3.0]]).astype("bfloat16")
    assert int(topk_correct(logits, paddle.to_tensor([2]))["top1"]) == 1


def test_sums_do_not_depend_on_the_split():
    rng = np.random.default_rng(2)
    logits = paddle.to_tensor((4 * rng.standard_normal((33, 11))).astype("float32"))
    labels = paddle.to_tensor(rng.integers(0, 11, 33))
    whole = classification_sums(logits, labels)
    assert whole["loss"].dtype == paddle.float64
    assert whole["count"].dtype == paddle.int64
    assert all(value.shape == [] for value in whole.values())
    parts = [classification_sums(logits[a:b], labels[a:b]) for a, b in ((0, 1), (1, 20), (20, 33))]
    for name, value in whole.items():
        total = sum(part[name] for part in parts)
        assert float(total) == pytest.approx(float(value), rel=1e-13), name


def test_loss_and_percent():
    rng = np.random.default_rng(4)
    logits = rng.standard_normal((8, 6)).astype("float32")
    labels = rng.integers(0, 6, 8)
    metrics = classification_metrics(classification_sums(paddle.to_tensor(logits), paddle.to_tensor(labels)))
    wide = logits.astype("float64")
    losses = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(8), labels]
    assert metrics == {
        "top1": 12.5 * stable_topk(logits, labels, 1),
        "top5": 12.5 * stable_topk(logits, labels, 5),
        "loss": pytest.approx(losses.mean(), rel=1e-6),
        "count": 8,
    }


def test_the_loss_is_computed_in_float32():
    """With bfloat16 logits only the logits are rounded."""
    low = paddle.to_tensor([[0.1, 0.2, 0.30001, 0.7]]).astype("bfloat16")
    labels = paddle.to_tensor([2])
    found, expected = classification_sums(low, labels), classification_sums(low.astype("float32"), labels)
    assert {name: float(v) for name, v in found.items()} == {name: float(v) for name, v in expected.items()}


def test_plain_numbers_are_accepted():
    sums = {"count": 4, "top1": 1, "top5": 3, "loss": 2.0}
    assert classification_metrics(sums) == {"top1": 25.0, "top5": 75.0, "loss": 0.5, "count": 4}


def test_invalid_arguments_are_refused():
    logits = paddle.zeros([2, 3])
    with pytest.raises(ValueError, match=r"labels \[B\]; got \[2, 3\] and \[2, 1\]"):
        topk_correct(logits, paddle.zeros([2, 1], "int64"))
    with pytest.raises(ValueError, match=r"labels \[B\]"):
        classification_sums(logits, paddle.zeros([3], "int64"))
    with pytest.raises(ValueError, match=r"k of at least 1; got \(0,\)"):
        topk_correct(logits, paddle.zeros([2], "int64"), ks=(0,))
    with pytest.raises(ValueError, match="No sample was evaluated"):
        classification_metrics({"count": 0, "top1": 0, "top5": 0, "loss": 0.0})


def test_calibration_error_equals_its_definition():
    """Guo et al. 2017, equation 3, over two batches; probabilities of exactly 1 and on a border of bins included."""
    rng = np.random.default_rng(5)
    logits = (3 * rng.standard_normal((400, 10))).astype("float32")
    logits[0] = 0
    logits[0, 0] = 200  # probability 1
    labels = np.where(rng.random(400) < 0.6, logits.argmax(1), rng.integers(0, 10, 400))
    parts = [
        calibration_sums(paddle.to_tensor(logits[part]), paddle.to_tensor(labels[part]))
        for part in (slice(0, 150), slice(150, None))
    ]
    sums = {name: (parts[0][name] + parts[1][name]).numpy() for name in parts[0]} | {"count": 400}
    powers = np.exp(logits - logits.max(1, keepdims=True))
    confidence = (powers / powers.sum(1, keepdims=True)).max(1)
    expected = 0.0
    for low in np.arange(15) / 15:
        chosen = (confidence > low) & (confidence <= low + 1 / 15)
        if chosen.any():
            accuracy = (logits.argmax(1) == labels)[chosen].mean()
            expected += chosen.mean() * abs(accuracy - confidence[chosen].mean())
    assert calibration_error(sums) == pytest.approx(100 * expected, rel=1e-5)
    assert 5 < calibration_error(sums) < 60


def test_a_sure_and_correct_model_is_calibrated():
    logits = paddle.to_tensor(200 * np.eye(4, dtype="float32"))
    right, wrong = (
        calibration_sums(logits, paddle.to_tensor(labels)) for labels in ([0, 1, 2, 3], [1, 2, 3, 0])
    )
    assert calibration_error({name: value.numpy() for name, value in right.items()} | {"count": 4}) == 0
    assert calibration_error({name: value.numpy() for name, value in wrong.items()} | {"count": 4}) == 100


def test_scores_of_classes_equal_those_of_scikit_learn():
    """Stored with scikit-learn 1.9.1: `precision_recall_fscore_support(labels, predictions, labels=range(5),
    zero_division=np.nan)`. The last class has no image and no prediction."""
    labels, predictions = np.random.default_rng(6).integers(0, 4, (2, 60))
    sums = class_sums(paddle.to_tensor(np.eye(5, dtype="float32")[predictions]), paddle.to_tensor(labels))
    assert all(value.dtype == paddle.int64 for value in sums.values())
    found = class_scores(*(sums[f"class_{name}"].numpy() for name in ("images", "predicted", "correct")))
    nan = np.nan
    assert found["images"].tolist() == [14, 13, 15, 18, 0]
    np.testing.assert_allclose(found["precision"], [40, 38.0952, 40, 36.8421, nan], atol=1e-4)
    np.testing.assert_allclose(found["recall"], [28.5714, 61.5385, 26.6667, 38.8889, nan], atol=1e-4)
    np.testing.assert_allclose(found["f1"], [33.3333, 47.0588, 32, 37.8378, nan], atol=1e-4)
