"""Vectors of channels on token tensors: biases and scales whose gradient is cheap on a CPU."""

from __future__ import annotations

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

# D, E channels in and out


def scale_channels(x: paddle.Tensor, vector: paddle.Tensor) -> paddle.Tensor:
    """`x * vector` of x `[..., D]` and a vector `[D]`."""
    return x * (_repeat(vector, x) if _sums_slowly(x, vector) else vector)


def linear(x: paddle.Tensor, weight: paddle.Tensor, bias: paddle.Tensor | None) -> paddle.Tensor:
    """`x weight + bias`, `[..., E]`, of x `[..., D]`, weight `[D, E]` and bias `[E]`."""
    if bias is None or not _sums_slowly(x, bias):
        return F.linear(x, weight, bias)
    product = F.linear(x, weight)
    return product.add_(
        _repeat(bias, product)
    )  # in place: nobody else holds it, and it is the largest tensor


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


def _repeat(vector: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
    """The vector for every token of x, as a product with ones, so that its gradient is a product too.

    A `PyLayer` would keep less for the backward pass, but fails under `paddle.grad` of other tensors (Paddle 3.3.1).
    """
    ones = paddle.ones([math.prod(x.shape[:-1]), 1], vector.dtype)
    return paddle.matmul(ones, vector.unsqueeze(0)).reshape(x.shape)
