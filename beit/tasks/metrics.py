"""Metrics of classification and segmentation: sums on the device, which are divided once at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

# B batch, K classes

_BINS = 15  # of the confidence


def topk_correct(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, Tensor]:
    """Number of samples whose label is among the k largest logits: `{"top1": ..., "top5": ...}`, 0-d int64.

    Equal logits are ranked by class index, the lowest first, as argmax and a stable sort do. A k larger than K counts
    as K. NaN ranks above all numbers, so that NaN logits never make a label correct.

    Args:
        logits: `[B, K]`, of any floating-point type.
        labels: `[B]` int64, in 0 .. K - 1.
        ks: the values of k.

    Raises:
        ValueError: the shapes do not fit, or a k is below 1.
    """
    if logits.ndim != 2 or list(labels.shape) != [logits.shape[0]]:
        got = f"{list(logits.shape)} and {list(labels.shape)}"
        raise ValueError(f"Class labels need logits [B, K] and labels [B]; got {got}")
    if min(ks) < 1:
        raise ValueError(f"top-k needs k of at least 1; got {tuple(ks)}")
    num_classes = logits.shape[1]
    logits = logits.astype("float32")
    column = labels.astype("int64").unsqueeze(1)  # [B, 1]
    of_label = paddle.take_along_axis(logits, column, axis=1)  # [B, 1]
    later_tie = (logits == of_label) & (paddle.arange(num_classes).unsqueeze(0) >= column)  # [B, K]
    behind = (logits < of_label) | later_tie  # [B, K], the label itself included
    rank = num_classes - behind.astype("int64").sum(axis=1)  # [B], 0 is the best
    return {f"top{k}": (rank < min(k, num_classes)).astype("int64").sum() for k in ks}


def classification_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums over the batch: `count`, `top1`, `top5` (0-d int64) and `loss` (0-d float64).

    The cross entropies of the samples are computed in float32 and added in float64, so that the total hardly depends on
    how samples are distributed over batches and ranks.

    Args:
        logits: `[B, K]`, of any floating-point type.
        labels: `[B]` int64, in 0 .. K - 1.

    Raises:
        ValueError: the shapes do not fit.
    """
    correct = topk_correct(logits, labels)
    with paddle.amp.auto_cast(enable=False):
        losses = F.cross_entropy(logits.astype("float32"), labels, reduction="none")
    return {
        "count": paddle.to_tensor(labels.shape[0], dtype="int64"),
        **correct,
        "loss": losses.astype("float64").sum(),
    }


def label_set_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums over the images that have a label, 0-d int64: `count`, and `top1` where the predicted class is one of them.

    NaN logits are never correct.

    Args:
        logits: `[B, K]`.
        labels: whether an image has the class, bool `[B, K]`.
    """
    best = paddle.take_along_axis(labels.astype("int64"), logits.argmax(axis=-1, keepdim=True), axis=1)
    correct = best.squeeze(1) * (1 - logits.isnan().any(axis=-1).astype("int64"))
    return {"count": labels.any(axis=-1).astype("int64").sum(), "top1": correct.sum()}


def label_set_metrics(sums: Mapping[str, Any]) -> dict[str, float]:
    """`top1` in percent and `count`.

    Args:
        sums: the results of `label_set_sums`, added over all batches and ranks.

    Raises:
        ValueError: no image has a label.
    """
    if sums["count"] < 1:
        raise ValueError("no evaluated image has a label, so there is no accuracy")
    return {"top1": 100 * float(sums["top1"]) / sums["count"], "count": int(sums["count"])}


def calibration_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Sums for the calibration error by bins of the confidence, float64 `[15]`: `bin_correct` and `bin_confidence`.

    The confidence is the probability of the predicted class. Bin k of the 15 holds those in (k / 15, (k + 1) / 15].

    Args:
        logits: `[B, K]`, of any floating-point type.
        labels: `[B]` int64, in 0 .. K - 1.
    """
    with paddle.amp.auto_cast(enable=False):
        confidence = F.softmax(logits.astype("float32"), axis=-1).max(axis=-1).astype("float64")
    correct = (logits.argmax(axis=-1) == labels).astype("float64")
    bins = (confidence * _BINS).ceil().astype("int64").clip(1, _BINS) - 1
    in_bin = F.one_hot(bins, _BINS).astype("float64")  # [B, 15]
    return {
        "bin_correct": (in_bin * correct.unsqueeze(1)).sum(axis=0),
        "bin_confidence": (in_bin * confidence.unsqueeze(1)).sum(axis=0),
    }


def calibration_error(sums: Mapping[str, Any]) -> float:
    """The expected calibration error in percent: the mean over the images of |accuracy - mean confidence| of their bin.

    Source: Guo et al. 2017, arXiv 1706.04599, equation 3, with 15 bins of equal width.

    Args:
        sums: `count` and the results of `calibration_sums`, added over all batches and ranks.
    """
    gaps = np.abs(np.asarray(sums["bin_correct"]) - np.asarray(sums["bin_confidence"]))
    return float(100 * gaps.sum() / sums["count"])


def class_sums(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Number of images by class, int64 `[K]`: `class_images`, `class_predicted`, and those of both, `class_correct`.

    Args:
        logits: `[B, K]`.
        labels: `[B]` int64, in 0 .. K - 1.
    """
    classes, predictions = logits.shape[1], logits.argmax(axis=-1)
    correct = (predictions == labels).astype("int64")
    return {
        "class_images": paddle.bincount(labels, minlength=classes),
        "class_predicted": paddle.bincount(predictions, minlength=classes),
        "class_correct": paddle.bincount(labels, weights=correct, minlength=classes).astype("int64"),
    }


def classification_metrics(sums: Mapping[str, Tensor | float]) -> dict[str, float]:
    """`top1` and `top5` in percent, mean `loss`, and `count`.

    Args:
        sums: the results of `classification_sums`, added over all batches and ranks.

    Raises:
        ValueError: `count` is 0.
    """
    count = int(sums["count"])
    if count < 1:
        raise ValueError("No sample was evaluated, so there is no accuracy; check the validation list")
    return {
        "top1": 100 * float(sums["top1"]) / count,
        "top5": 100 * float(sums["top5"]) / count,
        "loss": float(sums["loss"]) / count,
        "count": count,
    }


def average_precision(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Average precision of each class, in percent, `[K]`; NaN for a class that no image has.

    It is the sum over the thresholds of (increase of recall) x precision, without interpolation. Images with equal scores
    are above a threshold together.
    Source: scikit-learn `average_precision_score`.

    Args:
        scores: `[N, K]`.
        truth: whether an image has the class, bool `[N, K]`.
    """
    found = np.full(scores.shape[1], np.nan)
    for k in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked = scores[order, k]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last of equal scores
        hits = np.cumsum(truth[order, k])[ends]
        found[k] = 100 * (np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / hits[-1]
    return found


def confusion_matrix(
    predictions: Tensor, labels: Tensor, num_classes: int, ignore_label: int = 255
) -> Tensor:
    """Number of pixels of class i (row) that were predicted as class j (column): int64 `[K, K]`.

    Args:
        predictions: integers in 0 .. K - 1, of any shape.
        labels: integers in 0 .. K - 1 or `ignore_label`, of the same shape.
        num_classes: K.
        ignore_label: label of pixels that are not counted.

    Raises:
        ValueError: the shapes differ.
    """
    if list(predictions.shape) != list(labels.shape):
        got = f"{list(predictions.shape)} and {list(labels.shape)}"
        raise ValueError(f"Predictions and labels must have one shape; got {got}")
    labels, predictions = labels.astype("int64").flatten(), predictions.astype("int64").flatten()
    # Ignored pixels are counted in an extra bin, so that no shape depends on the data.
    bins = paddle.where(
        labels == ignore_label,
        paddle.full_like(labels, num_classes**2),
        labels * num_classes + predictions,
    )
    counts = paddle.bincount(bins, minlength=num_classes**2 + 1)
    return counts[: num_classes**2].reshape([num_classes, num_classes])


def segmentation_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """`iou` and `recall` in percent and the number of `pixels` of each class, each `[K]`.

    `iou` is NaN for a class without labeled and predicted pixels, `recall` for a class without labeled pixels.
    Source: mmseg/core/evaluation/metrics.py, where `recall` is called class accuracy.

    Args:
        confusion: sum of `confusion_matrix` over all images, `[K, K]`.
    """
    confusion = np.asarray(confusion, np.float64)
    correct, labeled, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return {
            "iou": 100 * correct / (labeled + predicted - correct),
            "recall": 100 * correct / labeled,
            "pixels": labeled.astype(np.int64),
        }


def segmentation_metrics(confusion: np.ndarray) -> dict[str, float]:
    """`mIoU`, `mAcc` and `aAcc` in percent: mean IoU, mean recall, and the share of pixels predicted correctly.

    The means are over the classes that have the score.

    Args:
        confusion: sum of `confusion_matrix` over all images, `[K, K]`.

    Raises:
        ValueError: no pixel was counted.
    """
    confusion = np.asarray(confusion, np.float64)
    if not confusion.sum():
        raise ValueError("No labeled pixel was evaluated, so there is no mIoU; check the masks")
    scores = segmentation_scores(confusion)
    return {
        "mIoU": float(np.nanmean(scores["iou"])),
        "mAcc": float(np.nanmean(scores["recall"])),
        "aAcc": float(100 * confusion.trace() / confusion.sum()),
    }
