"""Transformer block of BEiT: attention and MLP with LayerScale and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.layers.attention import Attention
from beit.layers.linear import Linear, scale_channels

# B batch, N tokens, D width

Activation = Callable[[paddle.Tensor], paddle.Tensor]

LN_EPSILON = 1e-6
"""LayerNorm epsilon of the official models (Paddle's default is 1e-5)."""


def drop_path(x: paddle.Tensor, rate: float, training: bool) -> paddle.Tensor:
    """Zero whole samples of `[B, …]` with probability `rate` in training and scale the rest by 1 / (1 - rate)."""
    if not training or rate == 0.0:
        return x
    if rate == 1.0:
        return paddle.zeros_like(x)
    keep = 1.0 - rate
    mask = paddle.bernoulli(paddle.full([x.shape[0]] + [1] * (x.ndim - 1), keep))
    return x * (mask / keep).astype(x.dtype)


class Mlp(nn.Layer):
    """Linear, activation (exact GELU unless told otherwise), Linear, dropout.

    The official file has no dropout between activation and `fc2`.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, activation: Activation = F.gelu) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = Linear(dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, N, D]` to `[B, N, D]`."""
        return self.drop(self.fc2(self.activation(self.fc1(x))))


class Block(nn.Layer):
    """`x + drop_path(gamma_1 attn(norm1(x)))`, then `x + drop_path(gamma_2 mlp(norm2(x)))`.

    Args:
        attention: ready `Attention` over D channels.
        dim: D.
        mlp_dim: hidden width of the MLP.
        drop: dropout of the MLP output.
        drop_path_rate: probability that a branch of a sample is dropped in training.
        init_values: initial LayerScale; 0 for none.
        epsilon, activation: of the norms and of the MLP; the teachers of VQ-KD have their own.
    """

    def __init__(
        self,
        attention: Attention,
        *,
        dim: int,
        mlp_dim: int,
        drop: float = 0.0,
        drop_path_rate: float = 0.0,
        init_values: float = 0.1,
        epsilon: float = LN_EPSILON,
        activation: Activation = F.gelu,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, epsilon=epsilon)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim, epsilon=epsilon)
        self.mlp = Mlp(dim, mlp_dim, drop, activation)
        self.drop_path_rate = drop_path_rate
        layer_scale = nn.initializer.Constant(init_values)
        self.gamma_1 = self.create_parameter([dim], default_initializer=layer_scale) if init_values else None
        self.gamma_2 = self.create_parameter([dim], default_initializer=layer_scale) if init_values else None

    def forward(
        self,
        x: paddle.Tensor,
        shared_bias: paddle.Tensor | None = None,
        index: paddle.Tensor | None = None,
        return_weights: bool = False,
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """`[B, N, D]` to `[B, N, D]`; the other arguments go to the attention, whose weights may come second."""
        branch, weights = self.attn(self.norm1(x), shared_bias, index, return_weights), None
        if return_weights:
            branch, weights = branch
        x = x + self._scale_and_drop(branch, self.gamma_1)
        branch = self.mlp(self.norm2(x))
        x = x + self._scale_and_drop(branch, self.gamma_2)
        return (x, weights) if return_weights else x

    def _scale_and_drop(self, branch: paddle.Tensor, gamma: paddle.Tensor | None) -> paddle.Tensor:
        if gamma is not None:
            branch = scale_channels(branch, gamma)
        return drop_path(branch, self.drop_path_rate, self.training)
