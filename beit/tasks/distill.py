"""Knowledge distillation: a frozen classifier whose predictions are learned beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paddle
from paddle import Tensor

from beit.cpu import split_batch

# B images, H, W their size, K classes


@dataclass(frozen=True)
class Teacher:
    """A frozen classifier in evaluation mode, for images that are normalized for the classifier that learns from it.

    Args:
        model: from normalized images `[B, 3, H, W]` to logits.
        mean, std: of the channels on [0, 1], with which the model was trained.
        student_mean, student_std: with which the images are normalized.
        outputs: the model's output of each class, in the order of the labels; None if they are the same.
    """

    model: Callable[[Tensor], Tensor]
    mean: Sequence[float]
    std: Sequence[float]
    student_mean: Sequence[float]
    student_std: Sequence[float]
    outputs: tuple[int, ...] | None = None

    def logits(self, images: Tensor) -> Tensor:
        """Logits `[B, K]` of images `[B, 3, H, W]`, without gradients."""
        return split_batch(self._logits, images)

    def _logits(self, images: Tensor) -> Tensor:
        if (tuple(self.mean), tuple(self.std)) != (tuple(self.student_mean), tuple(self.student_std)):
            mean, std, own_mean, own_std = (
                paddle.to_tensor(values, dtype=images.dtype).reshape([1, 3, 1, 1])
                for values in (self.student_mean, self.student_std, self.mean, self.std)
            )
            images = (images * std + mean - own_mean) / own_std
        logits = self.model(images)
        return logits if self.outputs is None else logits.index_select(paddle.to_tensor(self.outputs), axis=1)
