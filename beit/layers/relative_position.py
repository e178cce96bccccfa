"""Relative position bias with a class token."""

from __future__ import annotations

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.positions import num_table_rows

# h, w patch grid; N = h * w + 1 tokens; H heads; T = (2h - 1)(2w - 1) + 3 table rows


def make_table(layer: nn.Layer, grid_size: tuple[int, int], num_heads: int) -> paddle.Tensor:
    """Add a relative position table `[T, H]` of zeros to `layer`."""
    return layer.create_parameter(
        [num_table_rows(grid_size), num_heads], default_initializer=nn.initializer.Constant(0.0)
    )


def gather_bias(table: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Bias `[1, H, N, N]`: row `index[i, j]` of a table `[T, H]` for each query i and key j; index `[N, N]`."""
    # On a CPU F.embedding has the fastest backward of Paddle's gathers, and transposing a matrix costs half as much as
    # transposing a [N, N, H] tensor.
    rows = F.embedding(index.flatten(), table)  # [N * N, H]
    return rows.t().reshape([1, table.shape[1], *index.shape])


class RelativePositionBias(nn.Layer):
    """One table for all blocks (pre-training); the encoder holds the index."""

    def __init__(self, grid_size: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = make_table(self, grid_size, num_heads)

    def forward(self, index: paddle.Tensor) -> paddle.Tensor:
        """Bias `[1, H, N, N]`."""
        return gather_bias(self.relative_position_bias_table, index)
