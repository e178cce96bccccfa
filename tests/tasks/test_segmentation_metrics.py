"""mIoU, mAcc, aAcc and the confusion matrix compared with scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import paddle
import pytest
from sklearn import metrics as reference

from beit.tasks.metrics import confusion_matrix, segmentation_metrics, segmentation_scores


def maps(seed=0, classes=6, used=6):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, used, (3, 20, 30))
    predictions = np.where(rng.random(labels.shape) < 0.6, labels, rng.integers(0, used, labels.shape))
    labels[rng.random(labels.shape) < 0.2] = 255
    return predictions, labels


def confusion(predictions, labels, classes=6):
    matrix = confusion_matrix(
        paddle.to_tensor(predictions), paddle.to_tensor(labels.astype("uint8")), classes, 255
    )
    return matrix.numpy()


def test_metrics_equal_scikit_learn_with_ignored_pixels():
    predictions, labels = maps()
    counted = labels != 255
    truth, guess = labels[counted], predictions[counted]
    matrix = confusion(predictions, labels)
    np.testing.assert_array_equal(matrix, reference.confusion_matrix(truth, guess, labels=range(6)))
    scores, summary = segmentation_scores(matrix), segmentation_metrics(matrix)
    np.testing.assert_allclose(scores["iou"], 100 * reference.jaccard_score(truth, guess, average=None))
    np.testing.assert_allclose(scores["recall"], 100 * reference.recall_score(truth, guess, average=None))
    np.testing.assert_array_equal(scores["pixels"], np.bincount(truth, minlength=6))
    assert summary["mIoU"] == pytest.approx(100 * reference.jaccard_score(truth, guess, average="macro"))
    assert summary["mAcc"] == pytest.approx(100 * reference.balanced_accuracy_score(truth, guess))
    assert summary["aAcc"] == pytest.approx(100 * reference.accuracy_score(truth, guess))


def test_matrices_add_up_over_parts():
    predictions, labels = maps()
    parts = sum(confusion(predictions[k : k + 1], labels[k : k + 1]) for k in range(3))
    np.testing.assert_array_equal(parts, confusion(predictions, labels))


def test_classes_without_any_pixels_are_left_out_of_the_means():
    predictions, labels = maps(used=4)
    matrix = confusion(predictions, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores, summary = segmentation_scores(matrix), segmentation_metrics(matrix)
    assert np.isnan(scores["iou"][4:]).all() and not np.isnan(scores["iou"][:4]).any()
    assert summary["mIoU"] == pytest.approx(np.mean(scores["iou"][:4]))


def test_a_class_with_only_predicted_pixels_has_iou_0_and_no_recall():
    matrix = np.array([[8, 2], [0, 0]])
    scores, summary = segmentation_scores(matrix), segmentation_metrics(matrix)
    assert scores["iou"].tolist() == [80.0, 0.0] and np.isnan(scores["recall"][1])
    assert summary == {"mIoU": 40.0, "mAcc": 80.0, "aAcc": 80.0}


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int))
    with pytest.raises(ValueError, match="No labeled pixel"):
        segmentation_metrics(np.zeros((2, 2)))
