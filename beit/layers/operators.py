"""Operators of transformer blocks, with written out gradients where Paddle's CPU kernels take long for them.

Paddle sums the gradients of vectors and of repeated tensors element by element on one core, and copies the gradient of a
sum for each of its terms. Products with ones do the first many times as fast, and the second need not be done. The
gradients written out here are a tenth of a training step of BEiT-base. Its sums and products of rows and a vector take
several times as long as those of two tensors of one shape: where nothing looks on they are done in other ways.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn import functional as F

# B batch, N tokens, M keys, H heads, D, E channels in and out

_UNPACKED_ROWS = range(32, 192)
"""Rows of x for which the matrix library reads weights in place, a row after another, instead of packing them first."""

_COLLIDING = 1024
"""Rows of a multiple of so many float32 weights share one set of the first cache: 4096 bytes apart."""

_SLICE = 128
"""Rows of weights that the second cache holds for all rows of x (measured: 64, 96, 192, 256 and 384 are slower)."""

_thread = threading.local()


@contextmanager
def written_gradients() -> Iterator[None]:
    """Take the gradients of this module instead of Paddle's, in this thread.

    Not for everybody, because Paddle's `paddle.grad` of chosen tensors fails on graphs with such operators (3.3.1).
    """
    before, _thread.is_writing = getattr(_thread, "is_writing", False), True
    try:
        yield
    finally:
        _thread.is_writing = before


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x weight + bias`, `[..., E]`, of x `[..., D]`, weight `[D, E]` and bias `[E]`."""
    if bias is not None and _is_writing():
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias) if _is_alone(x) else F.linear(x, weight, bias)


class Linear(nn.Linear):
    """`paddle.nn.Linear` with the gradient of `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., E]`."""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """`paddle.nn.LayerNorm` over the last axis, with the right gradient of x when the weight is frozen.

    Paddle 3.3.1 has a wrong one then, on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`."""
        if _is_writing() and x.dtype == self.weight.dtype:
            return _LayerNorm.apply(x, self.weight, self.bias, self._epsilon)
        weight = self.weight
        if weight.stop_gradient and not x.stop_gradient:
            weight = weight.detach()
            weight.stop_gradient = False
        return F.layer_norm(x, weight.shape, weight, self.bias, self._epsilon)


def add_branch(x: Tensor, branch: Tensor, gamma: Tensor | None, path: Tensor | None) -> Tensor:
    """`x + branch gamma path`, `[B, N, D]`.

    Args:
        x, branch: `[B, N, D]`.
        gamma: LayerScale `[D]`, or None.
        path: factors of the samples `[B, 1, 1]`, or None.
    """
    if gamma is not None and _is_writing():
        return _AddBranch.apply(x, branch, gamma, path)
    if gamma is None:
        return x + (branch if path is None else branch * path.astype(branch.dtype))
    if path is None and _is_alone(branch):
        return _times_row(branch, gamma).add_(x)
    # One factor, so that one product is kept for the backward pass.
    return x + branch * (gamma if path is None else gamma * path)


def add_position_bias(logits: Tensor, bias: Tensor) -> Tensor:
    """`logits + bias`, `[B, H, N, M]`, of logits `[B, H, N, M]`, which may be overwritten, and bias `[1, H, N, M]`."""
    if _is_writing():
        return _AddPositionBias.apply(logits, bias)
    if _is_alone(logits) and logits.is_contiguous():
        for image in _slices(logits):
            image.add_(bias)
        return logits
    # Paddle's broadcast add on a CPU is several times slower than the add of an expanded copy.
    return logits + bias.expand_as(logits)


def unbind(x: Tensor) -> Sequence[Tensor]:
    """`x.unbind(0)`, without copies where that is possible."""
    if _is_alone(x) and x.is_contiguous():  # else unbinding gives views itself
        return [part.reshape(x.shape[1:]) for part in _slices(x)]
    return x.unbind(0)


def _is_alone(x: Tensor) -> bool:
    """Whether nothing looks on, neither autograd nor a trace, at work in float32 on a CPU."""
    is_watched = paddle.is_grad_enabled() or not paddle.in_dynamic_mode()
    return not is_watched and x.dtype == paddle.float32 and x.place.is_cpu_place()


def _slices(x: Tensor) -> list[Tensor]:
    """The parts `[1, …]` of x `[B, …]`, in its memory."""
    return [x._slice(number, number + 1) for number in range(x.shape[0])]


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` on a CPU, without gradients."""
    depth, width = weight.shape
    rows = x.flatten(0, -2)
    is_wide = width % _COLLIDING == 0 and depth % _SLICE == 0 and weight.is_contiguous()
    if is_wide and rows.shape[0] in _UNPACKED_ROWS:
        parts = rows.split(depth // _SLICE, axis=-1)
        total = _add_product(bias, parts[0], weight._slice(0, _SLICE))  # shares the memory of the weight
        for number, part in enumerate(parts[1:], start=1):
            total.addmm_(part, weight._slice(number * _SLICE, (number + 1) * _SLICE))
    else:
        total = _add_product(bias, rows, weight)
    return total.reshape([*x.shape[:-1], width])


def _add_product(bias: Tensor | None, rows: Tensor, weight: Tensor) -> Tensor:
    # Paddle's sum of rows and a vector takes as long as a tenth of the product itself.
    return paddle.matmul(rows, weight) if bias is None else paddle.addmm(bias, rows, weight)


def _times_row(x: Tensor, row: Tensor) -> Tensor:
    """`x row`, `[..., E]`, of x `[..., E]` and a row `[E]`: a third of the time of Paddle's own on a CPU."""
    return row.expand_as(x).multiply_(x)


class _Linear(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        _keep(ctx, (x, weight), wanted=(x, weight, bias))
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = _kept(ctx)
        wants_x, wants_weight, wants_bias = ctx.wanted
        rows = gradient.flatten(0, -2)
        return (
            paddle.matmul(gradient, weight, transpose_y=True) if wants_x else None,
            paddle.matmul(x.flatten(0, -2), rows, transpose_x=True) if wants_weight else None,
            _sum_of_rows(rows) if wants_bias else None,
        )


class _LayerNorm(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        _keep(ctx, (x, weight, epsilon), wanted=(x, weight, bias))
        return F.layer_norm(x, weight.shape, weight, bias, epsilon)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With y = x normalised: 1 / std (g w - mean(g w) - y mean(g w y)), means and std over a row."""
        x, weight, epsilon = _kept(ctx)
        width = x.shape[-1]
        rows, g = x.flatten(0, -2), gradient.flatten(0, -2)
        mean_of = paddle.full([width, 1], 1.0 / width, x.dtype)
        centred = rows - paddle.matmul(rows, mean_of)
        inverse_std = paddle.rsqrt(paddle.matmul(paddle.square(centred), mean_of) + epsilon)
        y = centred.multiply_(inverse_std)
        gy = g * y
        weighted_mean_of = mean_of * weight.unsqueeze(-1)
        means, means_y = paddle.matmul(g, weighted_mean_of), paddle.matmul(gy, weighted_mean_of)
        dweight, dbias = _sum_of_rows(gy), _sum_of_rows(g)
        dx = _times_row(g, weight).subtract_(means).subtract_(y.multiply_(means_y)).multiply_(inverse_std)
        return _only_wanted(ctx, dx.reshape(x.shape), dweight, dbias)


class _AddBranch(PyLayer):
    @staticmethod
    def forward(ctx: Any, x: Tensor, branch: Tensor, gamma: Tensor, path: Tensor | None) -> Tensor:
        _keep(ctx, (branch, gamma, path), wanted=(x, branch, gamma))
        scaled = _times_row(branch, gamma)
        return (scaled if path is None else scaled * path).add_(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        branch, gamma, path = _kept(ctx)
        reaching = gradient if path is None else gradient * path
        dgamma = _sum_of_rows((reaching * branch).flatten(0, -2))
        gradients = _only_wanted(ctx, gradient, _times_row(reaching, gamma), dgamma)
        return gradients if path is None else (*gradients, None)


class _AddPositionBias(PyLayer):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, bias: Tensor) -> Tensor:
        _keep(ctx, (bias.shape,), wanted=(logits, bias))
        return bias.expand_as(logits).add_(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (shape,) = _kept(ctx)
        dbias = _sum_of_rows(gradient.flatten(1)).reshape(shape) if ctx.wanted[1] else None
        return _only_wanted(ctx, gradient, dbias)


def _is_writing() -> bool:
    return getattr(_thread, "is_writing", False) and paddle.is_grad_enabled()


def _sum_of_rows(rows: Tensor) -> Tensor:
    """`[E]` of `[D, E]`."""
    return paddle.matmul(paddle.ones([1, rows.shape[0]], rows.dtype), rows).flatten()


def _keep(ctx: Any, tensors: tuple[Any, ...], *, wanted: tuple[Tensor, ...]) -> None:
    """Leave for the backward pass what it reads, and which inputs have gradients."""
    ctx.tensors = tensors
    ctx.wanted = [not tensor.stop_gradient for tensor in wanted]


def _kept(ctx: Any) -> tuple[Any, ...]:
    """What `_keep` left, and no longer: Paddle would hold it to the end of the whole backward pass."""
    tensors, ctx.tensors = ctx.tensors, None
    return tensors


def _only_wanted(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(one if wanted else None for one, wanted in zip(gradients, ctx.wanted, strict=True))
