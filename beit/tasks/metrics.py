"""Classification and segmentation metrics as sums on the device, divided once at the end.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor


def topk_correct(logits: Tensor, labels: Tensor, ks: Sequence[int] = (1, 5)) -> dict[str, Tensor]:
    """Number of samples whose label is among the k highest logits: `{"top1": ..., "top5": ...}`, 0-d int64.

    Equal logits are ranked by class index, the lowest first, as argmax and a stable sort do; k above the
    number of classes counts as all of them. NaN ranks above everything, so a label is never right because of
    one.

    Args:
        logits: `[B, K]`, any floating type.
        labels: `[B]` int64, in 0 .. K - 1.
        ks: the k to count.

    Raises:
        ValueError: when the shapes do not fit or a k is below 1.
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

    `loss` adds the samples' cross entropies, each computed in float32, in float64: the total hardly depends
    on how samples are spread over batches and ranks.

    Args:
        logits: `[B, K]`, any floating type.
        labels: `[B]` int64, in 0 .. K - 1.

    Raises:
        ValueError: when the shapes do not fit.
    """
    correct = topk_correct(logits, labels)
    with paddle.amp.auto_cast(enable=False):
        losses = F.cross_entropy(logits.astype("float32"), labels, reduction="none")
    return {
        "count": paddle.to_tensor(labels.shape[0], dtype="int64"),
        **correct,
        "loss": losses.astype("float64").sum(),
    }


def classification_metrics(sums: Mapping[str, Tensor | float]) -> dict[str, float]:
    """`top1` and `top5` in percent, mean `loss`, and `count`, from sums over everything that was evaluated.

    Args:
        sums: what `classification_sums` returns, added over batches and ranks.

    Raises:
        ValueError: when nothing was counted.
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


def confusion_matrix(
    predictions: Tensor, labels: Tensor, num_classes: int, ignore_label: int = 255
) -> Tensor:
    """Pixels of class i that were called j: int64 `[K, K]`; pixels labeled `ignore_label` do not count.

    Args:
        predictions: any shape, integer in 0 .. K - 1.
        labels: the same shape, integer in 0 .. K - 1 or `ignore_label`.
        num_classes: K.
        ignore_label: label of pixels without a class.

    Raises:
        ValueError: when the shapes differ.
    """
    if list(predictions.shape) != list(labels.shape):
        got = f"{list(predictions.shape)} and {list(labels.shape)}"
        raise ValueError(f"Predictions and labels must have one shape; got {got}")
    labels, predictions = labels.astype("int64").flatten(), predictions.astype("int64").flatten()
    # Ignored pixels go into a bin of their own, so that no shape depends on the data.
    bins = paddle.where(
        labels == ignore_label,
        paddle.full_like(labels, num_classes**2),
        labels * num_classes + predictions,
    )
    counts = paddle.bincount(bins, minlength=num_classes**2 + 1)
    return counts[: num_classes**2].reshape([num_classes, num_classes])


def segmentation_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Per class and in percent `iou` and `recall`, and the number of `pixels`, each `[K]`.

    `iou` is NaN for a class that was neither there nor predicted, `recall` for one that was not there.
    Source: mmseg/core/evaluation/metrics.py; `recall` is what it calls class accuracy.

    Args:
        confusion: sum of `confusion_matrix`, `[K, K]`.
    """
    confusion = np.asarray(confusion, np.float64)
    hits, there, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return {
            "iou": 100 * hits / (there + predicted - hits),
            "recall": 100 * hits / there,
            "pixels": there.astype(np.int64),
        }


def segmentation_metrics(confusion: np.ndarray) -> dict[str, float]:
    """`mIoU` and `mAcc`, the means of IoU and recall over the classes that have them, and `aAcc`, the share of
    pixels called right; in percent.

    Args:
        confusion: sum of `confusion_matrix`, `[K, K]`.

    Raises:
        ValueError: when no pixel was counted.
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
