"""Multi-head self-attention with an additive position bias."""

from __future__ import annotations

import paddle
from paddle import nn

from beit.layers.divided_tokens import of_all_tokens
from beit.layers.fused_attention import attention_weights, can_fuse, fused_attention
from beit.layers.operators import Linear, linear, unbind
from beit.layers.relative_position import gather_bias, make_table

# B batch, N tokens incl. class token, D width, H heads, d channels per head


class Attention(nn.Layer):
    """Self-attention of BEiT: q and v have a learned bias, k has none, positions enter as a bias on the logits.

    On a GPU whose fused kernel gives the same numbers (`fused_attention.probe`) that kernel runs, except with dropout
    of the weights in training or when they are asked for; elsewhere the same sums are written out.

    Source: unilm/beit/modeling_finetune.py, `Attention`.

    Args:
        dim: D.
        num_heads: H.
        head_dim: d; None for D / H.
        qkv_bias: learn q and v biases.
        scale: factor of q; None for d ** -0.5.
        attn_drop, proj_drop: dropout of the attention weights and of the output.
        grid_size: patch grid (h, w) of an own relative position table; None for no own table.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        grid_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim or dim // num_heads
        self.scale = self.head_dim**-0.5 if scale is None else scale
        inner = self.num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias_attr=False)
        zeros = nn.initializer.Constant(0.0)
        self.q_bias = self.create_parameter([inner], default_initializer=zeros) if qkv_bias else None
        self.v_bias = self.create_parameter([inner], default_initializer=zeros) if qkv_bias else None
        self.relative_position_bias_table = make_table(self, grid_size, num_heads) if grid_size else None
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = Linear(inner, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        x: paddle.Tensor,
        shared_bias: paddle.Tensor | None = None,
        index: paddle.Tensor | None = None,
        return_weights: bool = False,
    ) -> paddle.Tensor | tuple[paddle.Tensor, paddle.Tensor]:
        """Mixed tokens `[B, N, D]`; with `return_weights` also the attention weights `[B, H, N, N]`, rows that sum to 1.

        Args:
            x: tokens `[B, N, D]`.
            shared_bias: bias of all blocks `[1, H, N, N]`, or None.
            index: relative position index `[N, N]` of the own table; None leaves the own table out.
            return_weights: also what each token (row) takes from each token (column), before dropout.
        """
        bias = None
        if self.q_bias is not None:
            no_key_bias = paddle.zeros(self.q_bias.shape, self.q_bias.dtype)
            bias = paddle.concat([self.q_bias, no_key_bias, self.v_bias])
        qkv = linear(x, self.qkv.weight, bias)  # [B, N, 3 H d]
        qkv = qkv.reshape([0, 0, 3, self.num_heads, self.head_dim])
        position = self._position_bias(shared_bias, index)
        has_dropout = self.training and self.attn_drop.p > 0
        if not return_weights and not has_dropout and can_fuse(qkv, self.head_dim):
            q, k, v = qkv.unbind(2)  # [B, N, H, d]
            mixed = fused_attention(q, k, v, position, self.scale)
        else:
            q, k, v = unbind(qkv.transpose([2, 0, 3, 1, 4]))  # [B, H, N, d]
            k, v = of_all_tokens(k, v)
            weights = attention_weights(q, k, position, self.scale)  # [B, H, N, N]
            mixed = paddle.matmul(self.attn_drop(weights), v).transpose([0, 2, 1, 3])
        mixed = mixed.flatten(2)  # [B, N, H d]
        mixed = self.proj_drop(self.proj(mixed))
        return (mixed, weights) if return_weights else mixed

    def _position_bias(
        self, shared: paddle.Tensor | None, index: paddle.Tensor | None
    ) -> paddle.Tensor | None:
        if self.relative_position_bias_table is None or index is None:
            return shared
        own = gather_bias(self.relative_position_bias_table, index)
        return own if shared is None else own + shared
