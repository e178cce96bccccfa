"""LayerNorm with a correct input gradient when its weight is frozen."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis.

    On a CPU, Paddle 3.3.1 computes a wrong gradient of the input when the weight does not require a gradient, so a
    frozen weight is replaced by a detached copy that does.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[..., D]` to `[..., D]`."""
        weight = self.weight
        if weight.stop_gradient and not x.stop_gradient:
            weight = weight.detach()
            weight.stop_gradient = False
        return F.layer_norm(x, weight.shape, weight, self.bias, self._epsilon)
