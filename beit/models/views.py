"""Test-time augmentation: one prediction from several crops of an image and their mirror images."""

from __future__ import annotations

import math
from collections.abc import Callable

import paddle
import paddle.nn.functional as F

# B batch, V crops of an image, K classes


def view_logits(
    model: Callable[[paddle.Tensor], paddle.Tensor],
    images: paddle.Tensor,
    *,
    flip: bool,
    independent: bool = False,
) -> paddle.Tensor:
    """Logits `[B, K]`; of several views those whose probabilities are the mean of the probabilities of the views.

    Source: mmpretrain 1.2, `AverageClsScoreTTA`, which averages probabilities too.

    Args:
        model: from normalized images `[B, 3, H, W]` to logits.
        images: normalized, `[B, 3, H, W]` or crops `[B, V, 3, H, W]`.
        flip: also take the mirror image of each.
        independent: probabilities are sigmoids of the logits, not their softmax.
    """
    views = [images] if images.ndim == 4 else images.unbind(1)
    if flip:
        views = [*views, *(view.flip(3) for view in views)]
    if len(views) == 1:
        return model(views[0])
    logits = paddle.stack([model(view).astype("float32") for view in views])  # [V, B, K]
    if independent:  # log p - log(1 - p) of the means of p and 1 - p
        return paddle.logsumexp(F.log_sigmoid(logits), axis=0) - paddle.logsumexp(
            F.log_sigmoid(-logits), axis=0
        )
    log_probabilities = logits - paddle.logsumexp(logits, axis=-1, keepdim=True)
    return paddle.logsumexp(log_probabilities, axis=0) - math.log(len(views))
