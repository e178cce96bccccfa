"""BatchNorm over the images of all ranks, on CPUs too."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import distributed, nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F

# B batch of this rank, C channels


class SyncBatchNorm(nn.BatchNorm2D):
    """BatchNorm with training statistics over the batches of all ranks; on one rank plain BatchNorm.

    Paddle's `SyncBatchNorm` has no CPU kernel, and this class runs on GPUs too, so that both give the same numbers.
    Names, epsilon (1e-5) and momentum (0.9 of the old value) are those of Paddle's `BatchNorm2D`. As there, the running
    variance is the biased variance, where PyTorch's is unbiased.
    """

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, C, H, W]` to `[B, C, H, W]`; in training every rank must call it."""
        if not self.training or distributed.get_world_size() == 1:
            return F.batch_norm(
                x,
                self._mean,
                self._variance,
                self.weight,
                self.bias,
                training=self.training,
                momentum=self._momentum,
                epsilon=self._epsilon,
            )
        with paddle.amp.auto_cast(enable=False):
            return self._synchronized(x.astype("float32")).astype(x.dtype)

    def _synchronized(self, x: paddle.Tensor) -> paddle.Tensor:
        pixels = paddle.full([1], x.shape[0] * x.shape[2] * x.shape[3], "float32")
        sums = _SumOverRanks.apply(paddle.concat([x.sum([0, 2, 3]), pixels]))
        count = sums[-1].detach()
        mean = sums[:-1] / count  # [C]
        # Two passes: mean of squares minus squared mean would cancel in float32.
        centered = x - _per_channel(mean)
        variance = _SumOverRanks.apply((centered * centered).sum([0, 2, 3])) / count  # [C]
        with paddle.no_grad():
            for running, value in ((self._mean, mean), (self._variance, variance)):
                running.set_value(self._momentum * running + (1 - self._momentum) * value)
        scale = paddle.rsqrt(variance + self._epsilon) * self.weight
        return centered * _per_channel(scale) + _per_channel(self.bias)


class _SumOverRanks(PyLayer):
    """Sum over the ranks. Each rank's input affects the losses of all ranks, so gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor) -> paddle.Tensor:
        return _all_reduced(x)

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> paddle.Tensor:
        return _all_reduced(gradient)


def _all_reduced(x: paddle.Tensor) -> paddle.Tensor:
    total = x.clone()
    distributed.all_reduce(total)
    return total


def _per_channel(values: paddle.Tensor) -> paddle.Tensor:
    return values.reshape([1, -1, 1, 1])
