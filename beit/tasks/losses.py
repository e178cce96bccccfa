"""Classification losses, computed in float32 also under autocast.

Shapes: B batch, K classes, H x W pixels.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor


def soft_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of `-sum_k target_k log softmax(logits)_k`, a 0-d float32 tensor.

    Source: timm `SoftTargetCrossEntropy`, used by BEiT whenever mixup or cutmix is on.

    Args:
        logits: `[B, K]`, any floating type.
        targets: `[B, K]`, rows of non-negative weights that sum to 1.

    Raises:
        ValueError: when the shapes differ.
    """
    if logits.ndim != 2 or list(logits.shape) != list(targets.shape):
        raise ValueError(
            f"Soft targets need logits and targets [B, K]; got {list(logits.shape)} and {list(targets.shape)}"
        )
    with paddle.amp.auto_cast(enable=False):
        logits, targets = logits.astype("float32"), targets.astype("float32")
        # With weights that sum to 1; Paddle's log_softmax takes ten to fifty times as long on a CPU.
        return (paddle.logsumexp(logits, axis=-1) - (targets * logits).sum(axis=-1)).mean()


def segmentation_cross_entropy(logits: Tensor, labels: Tensor, ignore_label: int = 255) -> Tensor:
    """Sum of the pixels' cross entropies over the number of all pixels, ignored ones included; 0-d float32.

    The logits are resized bilinearly to the labels. A batch in which much is ignored thus weighs less.
    Source: mmseg 0.11 `cross_entropy` in losses/cross_entropy_loss.py, which the BEiT recipes were run with.

    Args:
        logits: `[B, K, h, w]`, any floating type.
        labels: `[B, H, W]` integer, in 0 .. K - 1 or `ignore_label`.
        ignore_label: label of pixels without a loss.

    Raises:
        ValueError: when the shapes do not fit.
    """
    if logits.ndim != 4 or labels.ndim != 3 or logits.shape[0] != labels.shape[0]:
        got = f"{list(logits.shape)} and {list(labels.shape)}"
        raise ValueError(f"Label maps need logits [B, K, h, w] and labels [B, H, W]; got {got}")
    with paddle.amp.auto_cast(enable=False):
        logits = F.interpolate(
            logits.astype("float32"), size=labels.shape[1:], mode="bilinear", align_corners=False
        )
        losses = F.cross_entropy(
            logits, labels.astype("int64").unsqueeze(1), axis=1, ignore_index=ignore_label, reduction="none"
        )
    return losses.mean()


def label_smoothing_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross entropy against `1 - smoothing` on the label and `smoothing / K` on each class, 0-d float32.

    Source: timm `LabelSmoothingCrossEntropy`, used by BEiT when mixup and cutmix are off.

    Args:
        logits: `[B, K]`, any floating type.
        labels: `[B]` int64, in 0 .. K - 1.
        smoothing: in [0, 1); 0 is the plain cross entropy.

    Raises:
        ValueError: when the shapes do not fit or `smoothing` is out of range.
    """
    if logits.ndim != 2 or list(labels.shape) != [logits.shape[0]]:
        got = f"{list(logits.shape)} and {list(labels.shape)}"
        raise ValueError(f"Class labels need logits [B, K] and labels [B]; got {got}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"Label smoothing {smoothing} is not in [0, 1); the BEiT recipes use 0.1")
    with paddle.amp.auto_cast(enable=False):
        logits = logits.astype("float32")
        on_label = F.cross_entropy(logits, labels)
        on_all = paddle.logsumexp(logits, axis=-1).mean() - logits.mean()
        return (1 - smoothing) * on_label + smoothing * on_all
