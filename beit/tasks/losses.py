"""Losses of classification and segmentation, computed in float32 also under autocast."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

# B batch, K classes, H, W pixels of the labels, h, w pixels of the logits


def soft_target_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of `-sum_k target_k log softmax(logits)_k`, a 0-d float32 tensor.

    BEiT uses it if mixup or cutmix is on.
    Source: timm `SoftTargetCrossEntropy`,
    https://github.com/huggingface/pytorch-image-models/blob/308d0b9554cea42dad38ce542d2478dc9abfd9fb/timm/loss/cross_entropy.py#L29-L36

    Args:
        logits: `[B, K]`, of any floating-point type.
        targets: `[B, K]`; each row has non-negative weights that sum to 1.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.ndim != 2 or list(logits.shape) != list(targets.shape):
        raise ValueError(
            f"Soft targets need logits and targets [B, K]; got {list(logits.shape)} and {list(targets.shape)}"
        )
    with paddle.amp.auto_cast(enable=False):
        logits, targets = logits.astype("float32"), targets.astype("float32")
        # Equal to the formula because the weights sum to 1; Paddle's log_softmax is 10 to 50 times slower on a CPU.
        return (paddle.logsumexp(logits, axis=-1) - (targets * logits).sum(axis=-1)).mean()


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, *, threshold: float | None = None, sum_classes: bool = False
) -> Tensor:
    """Mean over batch and classes of the binary cross entropy of each class by itself, a 0-d float32 tensor.

    Source: timm 1.0.31 `BinaryCrossEntropy`; DeiT III (arXiv 2204.07118) uses it with threshold 0 on mixed targets.

    Args:
        logits: `[B, K]`, of any floating-point type.
        targets: `[B, K]`, in [0, 1].
        threshold: targets above it become 1, the others 0; None keeps them.
        sum_classes: add up the classes instead of their mean.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.ndim != 2 or list(logits.shape) != list(targets.shape):
        raise ValueError(
            f"Binary targets need logits and targets [B, K]; got {list(logits.shape)} and {list(targets.shape)}"
        )
    with paddle.amp.auto_cast(enable=False):
        logits, targets = logits.astype("float32"), targets.astype("float32")
        if threshold is not None:
            targets = (targets > threshold).astype("float32")
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return losses.sum(axis=-1).mean() if sum_classes else losses.mean()


def distillation(logits: Tensor, teacher: Tensor, kind: str, temperature: float) -> Tensor:
    """`soft_distillation` or, for the kind "hard", `hard_distillation`, which has no temperature."""
    if kind == "hard":
        return hard_distillation(logits, teacher)
    return soft_distillation(logits, teacher, temperature)


def soft_distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean over the batch of `T^2 KL(softmax(teacher / T) || softmax(logits / T))`, a 0-d float32 tensor.

    Source: arXiv 1503.02531; timm 1.0.31 `LogitDistillationTask`. DeiT's losses.py divides it once more by K.

    Args:
        logits, teacher: `[B, K]`, of any floating-point type.
        temperature: T, above 0.
    """
    with paddle.amp.auto_cast(enable=False):
        own, other = logits.astype("float32") / temperature, teacher.astype("float32") / temperature
        targets = F.softmax(other, axis=-1)
        entropy = (targets * other).sum(axis=-1) - paddle.logsumexp(other, axis=-1)
        return temperature**2 * (soft_target_cross_entropy(own, targets) + entropy.mean())


def hard_distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Mean cross entropy with the teacher's best class as the label, a 0-d float32 tensor.

    Source: DeiT, arXiv 2012.12877, eq. 3, and its losses.py.

    Args:
        logits, teacher: `[B, K]`, of any floating-point type.
    """
    return label_smoothing_cross_entropy(logits, teacher.argmax(-1), 0.0)


def segmentation_cross_entropy(logits: Tensor, labels: Tensor, ignore_label: int = 255) -> Tensor:
    """Sum of the cross entropies of all labeled pixels, divided by the number of all pixels; 0-d float32.

    The logits are resized bilinearly to the size of the labels. Because ignored pixels count in the divisor, a batch
    with many of them has a smaller loss.
    Source: mmseg 0.11 `cross_entropy` in mmseg/models/losses/cross_entropy_loss.py, the version of the BEiT recipes.

    Args:
        logits: `[B, K, h, w]`, of any floating-point type.
        labels: `[B, H, W]`, integers in 0 .. K - 1 or `ignore_label`.
        ignore_label: label of pixels that are ignored.

    Raises:
        ValueError: the shapes do not fit.
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
    """Mean cross entropy with the targets `1 - smoothing` on the label plus `smoothing / K` on each class; 0-d float32.

    BEiT uses it if mixup and cutmix are off.
    Source: timm `LabelSmoothingCrossEntropy`,
    https://github.com/huggingface/pytorch-image-models/blob/308d0b9554cea42dad38ce542d2478dc9abfd9fb/timm/loss/cross_entropy.py#L11-L26

    Args:
        logits: `[B, K]`, of any floating-point type.
        labels: `[B]` int64, in 0 .. K - 1.
        smoothing: in [0, 1); 0 is the plain cross entropy.

    Raises:
        ValueError: the shapes do not fit, or `smoothing` is out of range.
    """
    if logits.ndim != 2 or list(labels.shape) != [logits.shape[0]]:
        got = f"{list(logits.shape)} and {list(labels.shape)}"
        raise ValueError(f"Class labels need logits [B, K] and labels [B]; got {got}")
    if not 0 <= smoothing < 1:
        raise ValueError(f"Label smoothing {smoothing} is not in [0, 1); the BEiT recipes use 0.1")
    with paddle.amp.auto_cast(enable=False):
        logits = logits.astype("float32")
        of_label = F.cross_entropy(logits, labels)
        of_all_classes = paddle.logsumexp(logits, axis=-1).mean() - logits.mean()
        return (1 - smoothing) * of_label + smoothing * of_all_classes
