"""Losses compared with NumPy in float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.data.mixup import soft_targets
from beit.tasks.losses import (
    binary_cross_entropy,
    hard_distillation,
    label_smoothing_cross_entropy,
    soft_distillation,
    soft_target_cross_entropy,
)


def log_softmax(x):
    shifted = x.astype("float64") - x.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@pytest.fixture
def case():
    rng = np.random.default_rng(1)
    logits = (5 * rng.standard_normal((6, 7))).astype("float32")
    targets = rng.dirichlet(np.ones(7), size=6).astype("float32")
    return logits, targets, rng.integers(0, 7, 6)


def test_soft_targets(case):
    logits, targets, _ = case
    loss = soft_target_cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(targets))
    assert loss.shape == []
    assert loss.dtype == paddle.float32
    assert float(loss) == pytest.approx(-(targets * log_softmax(logits)).sum(axis=1).mean(), rel=1e-6)


def test_soft_target_gradient(case):
    """d loss / d logits = (softmax - target) / B where targets sum to 1."""
    logits, targets, _ = case
    x = paddle.to_tensor(logits, stop_gradient=False)
    soft_target_cross_entropy(x, paddle.to_tensor(targets)).backward()
    np.testing.assert_allclose(x.grad.numpy(), (np.exp(log_softmax(logits)) - targets) / 6, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing(case, smoothing):
    logits, _, labels = case
    loss = label_smoothing_cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels), smoothing)
    smoothed = np.full((6, 7), smoothing / 7)
    smoothed[np.arange(6), labels] += 1 - smoothing
    assert loss.shape == []
    assert float(loss) == pytest.approx(-(smoothed * log_softmax(logits)).sum(axis=1).mean(), rel=1e-6)


def test_computes_in_float32(case):
    """With bfloat16 logits only the logits are rounded. (Autocast has no effect on a CPU.)"""
    logits, targets, labels = case
    low = paddle.to_tensor(logits).astype("bfloat16")
    rounded = low.astype("float32")
    target, label = paddle.to_tensor(targets), paddle.to_tensor(labels)
    soft = soft_target_cross_entropy(low, target)
    hard = label_smoothing_cross_entropy(low, label, 0.1)
    assert soft.dtype == hard.dtype == paddle.float32
    assert float(soft) == float(soft_target_cross_entropy(rounded, target))
    assert float(hard) == float(label_smoothing_cross_entropy(rounded, label, 0.1))


def test_large_logits_stay_finite():
    logits = paddle.to_tensor([[1e4, -1e4], [0.0, 1e4]])
    assert float(label_smoothing_cross_entropy(logits, paddle.to_tensor([0, 1]), 0.0)) == 0.0
    targets = paddle.to_tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(soft_target_cross_entropy(logits, targets)) == 0.0


def test_invalid_arguments_are_refused():
    logits = paddle.zeros([2, 3])
    with pytest.raises(ValueError, match=r"logits and targets \[B, K\]; got \[2, 3\] and \[2\]"):
        soft_target_cross_entropy(logits, paddle.zeros([2]))
    with pytest.raises(ValueError, match=r"labels \[B\]; got \[2, 3\] and \[3\]"):
        label_smoothing_cross_entropy(logits, paddle.zeros([3], "int64"), 0.1)
    with pytest.raises(ValueError, match=r"smoothing 1.0 is not in \[0, 1\)"):
        label_smoothing_cross_entropy(logits, paddle.zeros([2], "int64"), 1.0)


TIMM_BCE = {
    (None, False): (0.9363810420036316, 0.9558127522468567),
    (None, True): (3.7455241680145264, 3.823251485824585),
    (0.0, False): (0.8838832974433899, 0.8838832974433899),
    (0.0, True): (3.5355329513549805, 3.5355329513549805),
    (0.3, False): (0.9601265788078308, 0.9601265788078308),
    (0.3, True): (3.840505838394165, 3.840505838394165),
}
"""(threshold, sum): timm 1.0.31's `BinaryCrossEntropy(smoothing, target_threshold, sum_classes=...)(logits, targets)` for
soft targets, and for the labels 0, 3, 1 with smoothing 0.1."""


@pytest.mark.parametrize(("options", "expected"), TIMM_BCE.items())
def test_binary_cross_entropy_is_that_of_timm(options, expected):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 4)).astype(np.float32) * 2
    targets = np.abs(rng.standard_normal((3, 4))).astype(np.float32)
    targets /= targets.sum(1, keepdims=True)
    smoothed = soft_targets(paddle.to_tensor([0, 3, 1]), 4, 0.1)
    threshold, sum_classes = options
    found = [
        float(binary_cross_entropy(paddle.to_tensor(logits), t, threshold=threshold, sum_classes=sum_classes))
        for t in (paddle.to_tensor(targets), smoothed)
    ]
    assert found == pytest.approx(expected, rel=1e-6)


def test_binary_cross_entropy_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"got \[2, 3\] and \[2\]"):
        binary_cross_entropy(paddle.zeros([2, 3]), paddle.zeros([2]))


STUDENT = np.float32([[2.0, -1.0, 0.5, 0.0], [0.3, 1.2, -0.7, 4.0], [-2.0, 0.1, 0.2, 0.3]])
TEACHER = np.float32([[0.0, 3.0, 1.0, -1.0], [1.0, 1.5, 0.0, 2.0], [5.0, 0.0, -5.0, 1.0]])


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, 2.080618143081665), (3.0, 3.659773588180542)])
def test_soft_distillation_is_that_of_timm_and_of_deit_but_for_the_number_of_classes(temperature, expected):
    """`kd_loss` of timm 1.0.31, `LogitDistillationTask(…, temperature=T)`, whose models return these logits."""
    student, teacher = paddle.to_tensor(STUDENT, stop_gradient=False), paddle.to_tensor(TEACHER)
    loss = soft_distillation(student, teacher, temperature)
    assert loss.shape == []
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    own, other = log_softmax(STUDENT / temperature), log_softmax(TEACHER / temperature)
    deit = (np.exp(other) * (other - own)).sum() * temperature**2 / STUDENT.size  # DeiT's losses.py
    assert float(loss) == pytest.approx(4 * deit, rel=1e-6)
    loss.backward()
    gradient = temperature * (np.exp(own) - np.exp(other)) / 3
    np.testing.assert_allclose(student.grad.numpy(), gradient, atol=1e-6)


def test_soft_distillation_of_equal_logits_is_zero():
    logits = paddle.to_tensor(STUDENT)
    assert float(soft_distillation(logits, logits, 2.0)) == pytest.approx(0.0, abs=1e-5)


def test_hard_distillation_has_the_best_class_of_the_teacher_as_label():
    """`torch.nn.functional.cross_entropy(student, teacher.argmax(1))`, as DeiT's losses.py."""
    loss = hard_distillation(paddle.to_tensor(STUDENT), paddle.to_tensor(TEACHER))
    assert float(loss) == pytest.approx(2.2569525241851807, rel=1e-6)
