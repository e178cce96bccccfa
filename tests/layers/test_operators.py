"""Operators of blocks: the numbers of broadcasting, and written out gradients that are Paddle's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import paddle
import pytest
from paddle import Tensor
from paddle.nn import functional as F

from beit.layers.operators import (
    LayerNorm,
    Linear,
    add_branch,
    add_position_bias,
    linear,
    written_gradients,
)

RNG = np.random.default_rng(0)


def tensor(*shape: int, trains: bool = True, at: float = 0.0) -> Tensor:
    return paddle.to_tensor(at + RNG.normal(size=shape).astype("float32"), stop_gradient=not trains)


@pytest.mark.parametrize(
    ("rows", "depth", "width", "trains", "is_sliced"),
    [
        (99, 256, 1024, False, True),
        (32, 128, 2048, False, True),
        (191, 384, 1024, False, True),
        (31, 256, 1024, False, False),  # weights are read once
        (192, 256, 1024, False, False),  # and packed
        (99, 256, 1000, False, False),  # and spread over the cache
        (99, 200, 1024, False, False),
        (99, 256, 1024, True, False),
    ],
)
def test_wide_products_of_few_tokens_take_slices(
    monkeypatch: pytest.MonkeyPatch, rows: int, depth: int, width: int, trains: bool, is_sliced: bool
) -> None:
    slices, take = [], Tensor._slice
    monkeypatch.setattr(Tensor, "_slice", lambda *a: slices.append(a) or take(*a))
    x, weight, bias = tensor(1, rows, depth), tensor(depth, width), tensor(width)
    before = weight.numpy()
    with paddle.set_grad_enabled(trains):
        for b in (bias, None):
            found = linear(x, weight, b)
            expected = x.numpy() @ before + (0.0 if b is None else b.numpy())
            np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)
    assert len(slices) == (2 * depth // 128 if is_sliced else 0)
    np.testing.assert_array_equal(weight.numpy(), before)


@pytest.mark.parametrize("has_views", [False, True])
def test_without_gradients_nothing_given_is_changed(has_views: bool) -> None:
    before = paddle.get_flags("FLAGS_use_stride_kernel")
    paddle.set_flags({"FLAGS_use_stride_kernel": has_views})
    try:
        for shape in ((2, 3, 5), (1, 1, 5)):
            given = (tensor(*shape), tensor(*shape), tensor(5), tensor(5, 5))
            x, branch, row, weight = (one.numpy() for one in given)
            with paddle.no_grad():
                added = add_branch(given[0], given[1], given[2], None)
                product = linear(given[0], given[3], given[2])
            np.testing.assert_allclose(added.numpy(), x + branch * row, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(product.numpy(), x @ weight + row, rtol=1e-5, atol=1e-6)
            for one, values in zip(given, (x, branch, row, weight), strict=True):
                np.testing.assert_array_equal(one.numpy(), values)
    finally:
        paddle.set_flags(before)


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    layer = LayerNorm(5, epsilon=1e-6)
    layer._parameters["weight"], layer._parameters["bias"] = weight, bias
    return layer(x)


CASES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "linear": (linear, F.linear, (tensor(2, 3, 5), tensor(5, 4), tensor(4))),
    "linear of rows": (linear, F.linear, (tensor(3, 5), tensor(5, 4), tensor(4))),
    "layer norm": (
        norm,
        lambda x, w, b: F.layer_norm(x, [5], w, b, 1e-6),
        (tensor(2, 3, 5, at=2.0), tensor(5), tensor(5)),
    ),
    "branch": (
        lambda x, branch, gamma: add_branch(x, branch, gamma, None),
        lambda x, branch, gamma: x + branch * gamma,
        (tensor(2, 3, 5), tensor(2, 3, 5), tensor(5)),
    ),
    "branch with paths": (
        add_branch,
        lambda x, branch, gamma, path: x + branch * gamma * path,
        (tensor(2, 3, 5), tensor(2, 3, 5), tensor(5), tensor(2, 1, 1, trains=False)),
    ),
    "branch without scale": (
        lambda x, branch, path: add_branch(x, branch, None, path),
        lambda x, branch, path: x + branch * path,
        (tensor(2, 3, 5), tensor(2, 3, 5), tensor(2, 1, 1, trains=False)),
    ),
    "position bias": (
        add_position_bias,
        lambda logits, bias: logits + bias,
        (tensor(3, 2, 4, 5), tensor(1, 2, 4, 5)),
    ),
    "position bias of one image": (
        add_position_bias,
        lambda logits, bias: logits + bias,
        (tensor(1, 2, 4, 5), tensor(1, 2, 4, 5)),
    ),
}


@pytest.fixture(params=[True, False], ids=["written", "paddle's"])
def gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with written_gradients() if request.param else nullcontext():
        yield


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_gradients_are_paddles(name: str, gradients: None) -> None:
    ours, theirs, inputs = CASES[name]
    found, expected = (leaves(inputs) for _ in range(2))
    y, plain = ours(*found), theirs(*expected)
    np.testing.assert_allclose(y.numpy(), plain.numpy(), rtol=1e-6, atol=1e-6)
    sensitivity = tensor(*y.shape, trains=False)
    (y * sensitivity).sum().backward()
    (plain * sensitivity).sum().backward()
    for got, wanted in zip(found, expected, strict=True):
        assert (got.grad is None) is (wanted.grad is None) is got.stop_gradient
        if wanted.grad is not None:
            np.testing.assert_allclose(got.grad.numpy(), wanted.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_what_is_frozen_gets_no_gradient(name: str, gradients: None) -> None:
    ours, _, inputs = CASES[name]
    for frozen in [i for i, t in enumerate(inputs) if not t.stop_gradient]:
        found, expected = (leaves(inputs) for _ in range(2))
        found[frozen].stop_gradient = True
        ours(*found).square().sum().backward()
        ours(*expected).square().sum().backward()
        assert found[frozen].grad is None
        for index, (got, wanted) in enumerate(zip(found, expected, strict=True)):
            if index != frozen and not got.stop_gradient:
                np.testing.assert_array_equal(got.grad.numpy(), wanted.grad.numpy())


def test_written_gradients_belong_to_the_block_that_asks() -> None:
    x, weight, bias = tensor(2, 3), tensor(3, 4), tensor(4)
    assert "PyLayer" not in linear(x, weight, bias).grad_fn.name()
    with written_gradients():
        assert "PyLayer" in linear(x, weight, bias).grad_fn.name()
        with paddle.no_grad():
            assert linear(x, weight, bias).grad_fn is None
    assert "PyLayer" not in linear(x, weight, bias).grad_fn.name()


def test_a_missing_bias_is_none(gradients: None) -> None:
    x, weight = tensor(2, 3), tensor(3, 4)
    np.testing.assert_array_equal(linear(x, weight, None).numpy(), F.linear(x, weight).numpy())


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Linear(3, 4), paddle.nn.Linear(3, 4)), (LayerNorm(3), paddle.nn.LayerNorm(3))]
)
def test_layers_have_the_parameters_of_paddles(ours: paddle.nn.Layer, theirs: paddle.nn.Layer) -> None:
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    theirs.set_state_dict(ours.state_dict())
    x = tensor(2, 5, 3)
    np.testing.assert_array_equal(ours(x).numpy(), theirs(x).numpy())


def leaves(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    copies = [t.detach().clone() for t in tensors]
    for copy, original in zip(copies, tensors, strict=True):
        copy.stop_gradient = original.stop_gradient
    return copies
