"""Multi-head self-attention with an additive position bias."""

from __future__ import annotations

import paddle
from paddle import nn

from beit.layers.fused_attention import attention_weights, can_fuse, fused_attention
from beit.layers.relative_position import gather_bias, make_table

# B batch, N tokens incl. class token, D width, H heads, d channels per head


class Attention(nn.Layer):
    """Self-attention of BEiT: q and v have a learned bias, k has none, positions enter as a bias on the logits.

    On a GPU whose fused kernel gives the same numbers (`fused_attention.check_kernel`) that kernel runs, except with dropout
    of the weights in training; otherwise the same operations run one by one.

    Source: unilm/beit/modeling_finetune.py, `Attention`.

    Args:
        dim: D.
        num_heads: H.
        head_dim: d; None for D / H.
        qkv_bias: learn q and v biases.
        scale: factor of q; None for d ** -0.5.
        attn_drop, proj_drop: dropout of the attention weights and of the output.
        grid_size: patch grid (h, w) of a relative position table in this layer; None for no table.
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
        self.proj = nn.Linear(inner, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(
        self,
        x: paddle.Tensor,
        shared_bias: paddle.Tensor | None = None,
        index: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Mixed tokens `[B, N, D]`.

        Args:
            x: tokens `[B, N, D]`.
            shared_bias: position bias that all blocks share, `[1, H, N, N]`, or None.
            index: relative position index `[N, N]` into this layer's table; None leaves the table out.
        """
        qkv = self._qkv(x)  # [B, N, 3, H, d]
        bias = self._position_bias(shared_bias, index)  # [1, H, N, N] or None
        has_dropout = self.training and self.attn_drop.p > 0
        if not has_dropout and can_fuse(qkv, self.head_dim):
            q, k, v = qkv.unbind(2)  # [B, N, H, d]
            mixed = fused_attention(q, k, v, bias, self.scale)
        else:
            q, k, v = qkv.transpose([2, 0, 3, 1, 4]).unbind(0)  # [B, H, N, d]
            weights = self.attn_drop(attention_weights(q, k, bias, self.scale))  # [B, H, N, N]
            mixed = paddle.matmul(weights, v).transpose([0, 2, 1, 3])  # [B, N, H, d]
        return self.proj_drop(self.proj(mixed.flatten(2)))  # [B, N, D]

    def weights(
        self,
        x: paddle.Tensor,
        shared_bias: paddle.Tensor | None = None,
        index: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        """Attention weights `[B, H, N, N]` of the same arguments, before dropout; each row (query) sums to 1."""
        q, k, _ = self._qkv(x).transpose([2, 0, 3, 1, 4]).unbind(0)  # [B, H, N, d]
        return attention_weights(q, k, self._position_bias(shared_bias, index), self.scale)

    def _qkv(self, x: paddle.Tensor) -> paddle.Tensor:
        """Queries, keys and values `[B, N, 3, H, d]`; keys have no bias."""
        qkv = self.qkv(x)  # [B, N, 3 H d]
        if self.q_bias is not None:
            no_key_bias = paddle.zeros(self.q_bias.shape, self.q_bias.dtype)
            bias = paddle.concat([self.q_bias, no_key_bias, self.v_bias])
            qkv = qkv + bias.astype(qkv.dtype)
        return qkv.reshape([0, 0, 3, self.num_heads, self.head_dim])

    def _position_bias(
        self, shared: paddle.Tensor | None, index: paddle.Tensor | None
    ) -> paddle.Tensor | None:
        if self.relative_position_bias_table is None or index is None:
            return shared
        own = gather_bias(self.relative_position_bias_table, index)
        return own if shared is None else own + shared
