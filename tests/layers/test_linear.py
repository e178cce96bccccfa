"""Vectors beside tokens: the numbers of broadcasting, with and without a gradient."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from beit.layers.linear import Linear, linear, scale_channels

RNG = np.random.default_rng(0)


def tensor(*shape: int, trains: bool = True) -> paddle.Tensor:
    return paddle.to_tensor(RNG.normal(size=shape).astype("float32"), stop_gradient=not trains)


@pytest.mark.parametrize("shape", [(2, 3, 5), (4, 5)])
def test_numbers_and_gradients_are_those_of_broadcasting(shape: tuple[int, ...]) -> None:
    x, weight, bias, scale = tensor(*shape), tensor(5, 4), tensor(4), tensor(4)
    sensitivity = tensor(*shape[:-1], 4, trains=False)
    y = linear(x, weight, bias)
    y = scale_channels(y, scale)
    got = paddle.grad((y * sensitivity).sum(), [x, weight, bias, scale])
    plain = F.linear(x, weight, bias)
    plain = scale * plain
    expected = paddle.grad((plain * sensitivity).sum(), [x, weight, bias, scale])
    np.testing.assert_array_equal(y.numpy(), plain.numpy())
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("frozen", ["x", "vector"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    x, vector = tensor(2, 3, 4, trains=frozen != "x"), tensor(4, trains=frozen != "vector")
    scale_channels(x, vector).sum().backward()
    assert (x.grad is None) is (frozen == "x") and (vector.grad is None) is (frozen == "vector")
    learns = vector.grad if frozen == "x" else x.grad
    other = x.sum([0, 1]) if frozen == "x" else vector.expand_as(x)
    np.testing.assert_allclose(learns.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


def test_a_missing_bias_is_none() -> None:
    x, weight = tensor(2, 3), tensor(3, 4)
    np.testing.assert_array_equal(linear(x, weight, None).numpy(), F.linear(x, weight).numpy())


def test_layer_has_the_parameters_of_paddles() -> None:
    ours, theirs = Linear(3, 4), paddle.nn.Linear(3, 4)
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    theirs.set_state_dict(ours.state_dict())
    x = tensor(2, 5, 3)
    np.testing.assert_array_equal(ours(x).numpy(), theirs(x).numpy())
