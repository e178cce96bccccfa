"""The losses that transformers' BEiT computes from `labels`. Source: transformers, loss/loss_utils.py."""

from __future__ import annotations

import paddle
from paddle.nn import functional as F

from beit.transformers.configuration import BeitConfig

# B batch, K classes


def mean_cross_entropy(
    logits: paddle.Tensor, labels: paddle.Tensor, ignored: int = -100, axis: int = -1
) -> paddle.Tensor:
    """Mean cross entropy of the labels that are not `ignored`, a 0-d tensor; NaN if there is none.

    With a negative `ignore_index` Paddle's own mean counts the ignored labels too.

    Args:
        logits: `[B, K]`, or with the classes on another `axis`.
        labels: int, of the shape of the logits without that axis, or with 1 there.
        ignored: a label.
        axis: of the classes.
    """
    total = F.cross_entropy(logits, labels, ignore_index=ignored, reduction="sum", axis=axis)
    return total / (labels != ignored).sum().astype(total.dtype)


def classification_loss(logits: paddle.Tensor, labels: paddle.Tensor, config: BeitConfig) -> paddle.Tensor:
    """The loss of `config.problem_type`, a 0-d tensor; as in transformers, the type is found and stored if it is None.

    One class is a regression, integers are classes (cross entropy, -100 is ignored), other numbers `[B, K]` are
    independent classes (binary cross entropy).

    Args:
        logits: `[B, K]`.
        labels: int `[B]`, or float `[B, K]` (`[B]` for one class).
        config: its `problem_type` is set.
    """
    is_integer = labels.dtype in (paddle.int64, paddle.int32)
    if config.problem_type is None:
        several = "single_label_classification" if is_integer else "multi_label_classification"
        config.problem_type = "regression" if config.num_labels == 1 else several
    if config.problem_type == "regression":
        if config.num_labels == 1:
            logits, labels = logits.flatten(), labels.flatten()
        return F.mse_loss(logits, labels.astype(logits.dtype))
    if config.problem_type == "single_label_classification":
        return mean_cross_entropy(logits, labels.flatten())
    return F.binary_cross_entropy_with_logits(logits, labels.astype(logits.dtype))


def segmentation_loss(
    logits: paddle.Tensor, auxiliary: paddle.Tensor | None, labels: paddle.Tensor, config: BeitConfig
) -> paddle.Tensor:
    """Mean cross entropy of the labeled pixels, plus `auxiliary_loss_weight` times that of the auxiliary head; 0-d.

    Args:
        logits, auxiliary: `[B, K, h, w]`; they are resized to the labels.
        labels: int `[B, H, W]`; `config.semantic_loss_ignore_index` is ignored.
        config: with the weight and the ignored label.
    """

    def mean_loss(scores: paddle.Tensor) -> paddle.Tensor:
        scores = F.interpolate(scores, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        target = labels.astype("int64").unsqueeze(1)
        return mean_cross_entropy(scores, target, config.semantic_loss_ignore_index, axis=1)

    loss = mean_loss(logits)
    return loss if auxiliary is None else loss + config.auxiliary_loss_weight * mean_loss(auxiliary)
