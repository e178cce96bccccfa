"""Blocks trained on parts of a batch, a thread for each: what Paddle's CPU kernels leave idle, the other parts use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from beit import cpu_threads
from beit.layers.operators import written_gradients

# B batch, b part of it, N tokens, D width

LEAST_VALUES = 1 << 17
"""Numbers in the tokens `[B, N, D]` below which threads wait for each other's Python longer than they save."""

L = TypeVar("L", bound=nn.Layer)


@dataclass(frozen=True)  # no tuple: Paddle would look for inputs in it
class Run:
    """A forward pass through blocks.

    Args:
        function: from x `[b, N, D]`, `shared_bias`, `paths` and `blocks` to tensors `[b, …]`; treats each sample by itself.
        shared_bias: position bias `[1, H, N, N]` of all samples, or None.
        paths: for each block the factors of its branches `[2, B, 1, 1]`, or None.
        blocks: their parameters are all that `function` has gradients for, beside x and `shared_bias`.
    """

    function: Callable[[Tensor, Tensor | None, Sequence[Tensor | None], Sequence[nn.Layer]], list[Tensor]]
    shared_bias: Tensor | None
    paths: Sequence[Tensor | None]
    blocks: Sequence[nn.Layer]


def is_divided(x: Tensor, blocks: Sequence[nn.Layer]) -> bool:
    """Whether `run_divided` should run the blocks on x `[B, N, D]`: in training on a CPU, after `beit.tune_cpu()`.

    Not with dropout, where it is not determined which thread draws first, nor with forward hooks.
    """
    if not (cpu_threads.divides_blocks() and paddle.in_dynamic_mode() and paddle.is_grad_enabled()):
        return False
    if x.size < LEAST_VALUES:
        return False
    layers = [layer for block in blocks for layer in block.sublayers(include_self=True)]
    has_dropout = any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in layers)
    if has_dropout or cpu_threads.is_watched(blocks):
        return False
    return x.place.is_cpu_place() and any(block.training for block in blocks)


def run_divided(x: Tensor, run: Run) -> list[Tensor]:
    """`run.function` of x `[B, N, D]`, with gradients for one backward pass, computed in parts of the batch."""
    parameters = [p for block in run.blocks for p in block.parameters() if not p.stop_gradient]
    return list(_Divided.apply(run, x, run.shared_bias, *parameters))


class _Divided(PyLayer):
    """One node of the graph; those of the parts hang below it."""

    @staticmethod
    def forward(
        ctx: Any, run: Run, x: Tensor, shared_bias: Tensor | None, *parameters: Tensor
    ) -> tuple[Tensor, ...]:
        sizes = cpu_threads.part_sizes(x)
        ctx.wanted = [not t.stop_gradient for t in (x, shared_bias) if t is not None]
        ctx.sizes, ctx.sums = sizes, [_Sum() for _ in parameters]
        paths = [[None] * len(sizes) if path is None else path.split(sizes, axis=1) for path in run.paths]
        shares = zip(x.split(sizes), *paths, strict=True)
        ctx.parts = cpu_threads.in_threads(
            lambda item: _Part(item[0], run, parameters, ctx.sums, item[1][0], item[1][1:]),
            list(enumerate(shares)),
        )
        states = zip(*(part.states for part in ctx.parts), strict=True)
        return tuple(paddle.concat([state.detach() for state in of_parts]) for of_parts in states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        parts, ctx.parts = ctx.parts, None
        shares = zip(*(gradient.split(ctx.sizes) for gradient in gradients), strict=True)
        found = cpu_threads.in_threads(
            lambda item: item[0].backward(item[1]), list(zip(parts, shares, strict=True))
        )
        inputs = [paddle.concat([dx for dx, _ in found])]
        if found[0][1] is not None:
            inputs.append(sum((dbias for _, dbias in found[1:]), found[0][1]))
        wanted = [one if wants else None for one, wants in zip(inputs, ctx.wanted, strict=True)]
        return (*wanted, *(total.value for total in ctx.sums))


class _Part:
    """The graph over some samples, with leaves of its own that share the memory of the parameters."""

    def __init__(
        self,
        number: int,
        run: Run,
        parameters: Sequence[Tensor],
        sums: Sequence[_Sum],
        x: Tensor,
        paths: Sequence[Tensor | None],
    ) -> None:
        self._number, self._sums = number, sums
        self._leaves = [_leaf(parameter) for parameter in parameters]
        for index, leaf in enumerate(self._leaves):
            # The leaves keep their hooks: a hook that kept the leaves would keep all for ever.
            leaf._register_backward_hook(partial(_arrived, weakref.ref(self), index))
        self._x = _leaf(x)
        self._shared_bias = None if run.shared_bias is None else _leaf(run.shared_bias)
        leaf_of = {id(p): leaf for p, leaf in zip(parameters, self._leaves, strict=True)}
        blocks = [_with_parameters(block, leaf_of) for block in run.blocks]
        with paddle.enable_grad(), written_gradients():
            self.states = run.function(self._x, self._shared_bias, paths, blocks)

    def backward(self, gradients: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Gradients of x and of the shared bias, of those of the states; those of parameters go into the sums."""
        # A tensor may be a state twice: asked for, and the last one.
        of_state: dict[int, tuple[Tensor, Tensor]] = {}
        for state, gradient in zip(self.states, gradients, strict=True):
            before = of_state.get(id(state))
            of_state[id(state)] = (state, gradient if before is None else before[1] + gradient)
        states, sums = zip(*of_state.values(), strict=True)
        with written_gradients():  # blocks that are computed again write theirs out too
            paddle.autograd.backward(list(states), list(sums))
        return self._x.grad, None if self._shared_bias is None else self._shared_bias.grad

    def add_to_sum(self, index: int) -> None:
        """The gradient of a leaf is there."""
        self._sums[index].add(self._number, self._leaves[index])


def _arrived(owner: weakref.ref[_Part], index: int) -> None:
    part = owner()
    assert part is not None  # its own backward pass is under way
    part.add_to_sum(index)


class _Sum:
    """The gradient of a parameter over the parts.

    It is added up while the others are still under way, so that no part keeps gradients of its own, and always in the
    order of the parts: the same run gives the same bits.
    """

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self._waiting: dict[int, Tensor] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, number: int, leaf: Tensor) -> None:
        with self._lock, paddle.no_grad():
            self._waiting[number] = leaf
            while self._next in self._waiting:
                leaf = self._waiting.pop(self._next)
                if self.value is None:
                    self.value = leaf.grad
                else:
                    self.value.add_(leaf.grad)
                    leaf.clear_gradient(False)
                self._next += 1


def _leaf(tensor: Tensor) -> Tensor:
    leaf = tensor.detach()
    leaf.stop_gradient = False
    return leaf


def _with_parameters(layer: L, replacements: dict[int, Tensor]) -> L:
    """The layer with other tensors in the place of its parameters (by `id`); everything else is shared."""
    copy = object.__new__(type(layer))
    copy.__dict__.update(layer.__dict__)
    copy.__dict__["_parameters"] = type(layer._parameters)(
        (name, replacements.get(id(p), p)) for name, p in layer._parameters.items()
    )
    copy.__dict__["_sub_layers"] = type(layer._sub_layers)(
        (name, _with_parameters(child, replacements)) for name, child in layer._sub_layers.items()
    )
    return copy
