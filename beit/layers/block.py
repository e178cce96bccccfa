"""Transformer block of BEiT: attention and MLP with LayerScale and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.layers.attention import Attention
from beit.layers.layer_norm import LayerNorm

# B batch, N tokens, D width

Activation = Callable[[paddle.Tensor], paddle.Tensor]

LN_EPSILON = 1e-6
"""LayerNorm epsilon of the official models (Paddle's default is 1e-5)."""


class DropPath(nn.Layer):
    """Stochastic depth: in training, a sample's branch is 0 with probability `rate`, else scaled by 1 / (1 - rate).

    Source: arXiv 1603.09382; timm/layers/drop.py, `drop_path`.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: paddle.Tensor) -> paddle.Tensor:
        """`[B, N, D]` to `[B, N, D]`."""
        if not self.training or self.rate == 0.0:
            return branch
        is_kept = (paddle.rand([branch.shape[0], 1, 1]) >= self.rate).astype(branch.dtype)
        return branch * (is_kept / (1.0 - self.rate) if self.rate < 1.0 else 0.0)


class Mlp(nn.Layer):
    """Linear, activation (exact GELU unless told otherwise), Linear, dropout.

    The official file has no dropout between activation and `fc2`.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, activation: Activation = F.gelu) -> None:
        super().__init__()
        self.activation = activation
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, N, D]` to `[B, N, D]`."""
        return self.drop(self.fc2(self.activation(self.fc1(x))))


class Block(nn.Layer):
    """`x + drop_path(gamma_1 attn(norm1(x)))`, then `x + drop_path(gamma_2 mlp(norm2(x)))`.

    Args:
        attention: the block's `Attention` over D channels.
        dim: D.
        mlp_dim: hidden width of the MLP.
        drop: dropout of the MLP output.
        drop_path_rate: probability that a branch of a sample is dropped in training.
        init_values: initial LayerScale; 0 for none.
        epsilon, activation: of the norms and of the MLP; some teachers of VQ-KD need other values.
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
        self.norm1 = LayerNorm(dim, epsilon=epsilon)
        self.attn = attention
        self.norm2 = LayerNorm(dim, epsilon=epsilon)
        self.mlp = Mlp(dim, mlp_dim, drop, activation)
        self.drop_path = DropPath(drop_path_rate)
        layer_scale = nn.initializer.Constant(init_values)
        self.gamma_1 = self.create_parameter([dim], default_initializer=layer_scale) if init_values else None
        self.gamma_2 = self.create_parameter([dim], default_initializer=layer_scale) if init_values else None

    def forward(
        self,
        x: paddle.Tensor,
        shared_bias: paddle.Tensor | None = None,
        index: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """`[B, N, D]` to `[B, N, D]`; `shared_bias` and `index` are those of `Attention.forward`."""
        x = x + self.drop_path(_scaled(self.attn(self.norm1(x), shared_bias, index), self.gamma_1))
        return x + self.drop_path(_scaled(self.mlp(self.norm2(x)), self.gamma_2))


def _scaled(branch: paddle.Tensor, gamma: paddle.Tensor | None) -> paddle.Tensor:
    return branch if gamma is None else gamma * branch
