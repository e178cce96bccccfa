"""Transformer block of BEiT: attention and MLP with LayerScale and stochastic depth."""

from __future__ import annotations

from collections.abc import Callable

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.layers.attention import Attention
from beit.layers.operators import LayerNorm, Linear, add_branch

# B batch, N tokens, D width

Activation = Callable[[paddle.Tensor], paddle.Tensor]

LN_EPSILON = 1e-6
"""LayerNorm epsilon of the official models (Paddle's default is 1e-5)."""


def draw_paths(rate: float, batch: int, training: bool) -> paddle.Tensor | None:
    """Stochastic depth of one block: factors `[2, B, 1, 1]` of its branches, 0 with probability `rate`, else 1 / (1 - rate).

    None, which leaves the branches alone, outside of training and for a rate of 0.
    """
    if not training or rate == 0.0:
        return None
    kept = paddle.rand([2, batch, 1, 1]) >= rate
    return kept.astype("float32") * (1.0 / (1.0 - rate) if rate < 1.0 else 0.0)


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
        self.norm1 = LayerNorm(dim, epsilon=epsilon)
        self.attn = attention
        self.norm2 = LayerNorm(dim, epsilon=epsilon)
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
        paths: paddle.Tensor | None = None,
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """`[B, N, D]` to `[B, N, D]`; `shared_bias`, `index` and `return_weights` are the attention's.

        Its weights come second when they are asked for. `paths` are factors of the branches that were drawn before
        (`draw_paths`).
        """
        if paths is None:
            paths = draw_paths(self.drop_path_rate, x.shape[0], self.training)
        branch, weights = self.attn(self.norm1(x), shared_bias, index, return_weights), None
        if return_weights:
            branch, weights = branch
        x = add_branch(x, branch, self.gamma_1, None if paths is None else paths[0])
        branch = self.mlp(self.norm2(x))
        x = add_branch(x, branch, self.gamma_2, None if paths is None else paths[1])
        return (x, weights) if return_weights else x
