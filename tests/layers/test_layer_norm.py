"""LayerNorm has Paddle's parameters and values, and the right gradient of its input when its weight is frozen."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle import nn

from beit.layers.layer_norm import LayerNorm

RNG = np.random.default_rng(5)


def random(*shape: int) -> paddle.Tensor:
    return paddle.to_tensor(RNG.normal(size=shape).astype("float32"))


def test_parameters_and_values_are_paddles() -> None:
    ours, theirs = LayerNorm(3, epsilon=1e-6), nn.LayerNorm(3, epsilon=1e-6)
    assert {n: p.shape for n, p in ours.named_parameters()} == {
        n: p.shape for n, p in theirs.named_parameters()
    }
    x = random(2, 5, 3)
    np.testing.assert_array_equal(ours(x).numpy(), theirs(x).numpy())


@pytest.mark.parametrize("frozen", ["", "weight", "bias", "both"])
def test_a_frozen_parameter_gets_no_gradient_and_the_input_the_right_one(frozen: str) -> None:
    """Against the formula: dx = (g - mean(g) - y mean(g y)) / std, with g = weight * dy."""
    layer = LayerNorm(5, epsilon=0.0)
    layer.weight.set_value(random(5))
    layer.bias.set_value(random(5))
    layer.weight.stop_gradient = frozen in ("weight", "both")
    layer.bias.stop_gradient = frozen in ("bias", "both")
    x, dy = random(2, 3, 5), random(2, 3, 5)
    x.stop_gradient = False
    (layer(x) * dy).sum().backward()
    values, gradient = x.numpy().astype("float64"), (layer.weight * dy).numpy().astype("float64")
    std = values.std(-1, keepdims=True)
    y = (values - values.mean(-1, keepdims=True)) / std
    expected = gradient - gradient.mean(-1, keepdims=True) - y * (gradient * y).mean(-1, keepdims=True)
    np.testing.assert_allclose(x.grad.numpy(), expected / std, rtol=1e-4, atol=1e-5)
    assert (layer.weight.grad is None) is (frozen in ("weight", "both"))
    assert (layer.bias.grad is None) is (frozen in ("bias", "both"))
