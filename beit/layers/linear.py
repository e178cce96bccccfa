"""Vectors of channels on token tensors: biases and scales whose gradient is cheap on a CPU."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F

# D, E channels in and out


def scale_channels(x: paddle.Tensor, vector: paddle.Tensor) -> paddle.Tensor:
    """`x * vector` of x `[..., D]` and a vector `[D]`."""
    if x.stop_gradient or not _sums_slowly(x, vector):
        return x * vector
    return _Scale.apply(x, vector)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """`x weight + bias`, `[..., E]`, of x `[..., D]`, weight `[D, E]` and bias `[E]`."""
    if bias is None or weight.stop_gradient or not _sums_slowly(x, bias):
        return F.linear(x, weight, bias)
    return _Shift.apply(F.linear(x, weight), bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with the cheap gradient of `linear`."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[..., D]` to `[..., E]`."""
        return linear(x, self.weight, self.bias)


def _sums_slowly(x: paddle.Tensor, vector: paddle.Tensor) -> bool:
    """Whether the gradient of the vector will be summed over tokens by Paddle's CPU kernels.

    They take five to twelve times as long for it as the product with ones below, a seventh of a training step.
    """
    wants_gradient = paddle.in_dynamic_mode() and paddle.is_grad_enabled() and not vector.stop_gradient
    return wants_gradient and x.place.is_cpu_place()


class _Shift(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, vector: paddle.Tensor) -> paddle.Tensor:
        return x + vector

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        return gradient, _sum_tokens(gradient)


class _Scale(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, vector: paddle.Tensor) -> paddle.Tensor:
        ctx.save_for_backward(x, vector)
        return x * vector

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        x, vector = ctx.saved_tensor()
        return gradient * vector, _sum_tokens(gradient * x)


def _sum_tokens(x: paddle.Tensor) -> paddle.Tensor:
    rows = x.reshape([-1, x.shape[-1]])
    return paddle.matmul(paddle.ones([1, rows.shape[0]], x.dtype), rows).squeeze(0)
