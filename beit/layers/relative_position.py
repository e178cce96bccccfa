"""Relative position bias with a class token."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

# h, w patch grid; N = h * w + 1 tokens; H heads; T = (2h - 1)(2w - 1) + 3 table rows

CLASS_ROWS = 3
"""Last rows of a table: class token to patch, patch to class token, class token to itself."""


def num_table_rows(grid_size: tuple[int, int]) -> int:
    """T, the distinct relative offsets of a grid plus the three rows of the class token."""
    height, width = grid_size
    return (2 * height - 1) * (2 * width - 1) + CLASS_ROWS


def relative_position_index(grid_size: tuple[int, int]) -> np.ndarray:
    """Table row of each (query, key) pair, int64 `[N, N]`, class token first, patches row-major.

    Source: unilm/beit/modeling_finetune.py, `Attention.__init__`.
    """
    height, width = grid_size
    rows, columns = (axis.reshape(-1) for axis in np.indices(grid_size))
    row_offset = rows[:, None] - rows[None, :] + height - 1
    column_offset = columns[:, None] - columns[None, :] + width - 1
    last = num_table_rows(grid_size)
    index = np.full((height * width + 1, height * width + 1), last - 1, dtype=np.int64)
    index[1:, 1:] = row_offset * (2 * width - 1) + column_offset
    index[0, 1:] = last - 3
    index[1:, 0] = last - 2
    return index


def make_table(layer: nn.Layer, grid_size: tuple[int, int], num_heads: int) -> paddle.Tensor:
    """A zero table `[T, H]`, owned by `layer`."""
    return layer.create_parameter(
        [num_table_rows(grid_size), num_heads], default_initializer=nn.initializer.Constant(0.0)
    )


def gather_bias(table: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Bias `[1, H, N, N]` of a table `[T, H]` under an index `[N, N]`."""
    # On a CPU F.embedding has the cheapest backward of Paddle's gathers, and turning a matrix costs half as much as
    # turning a [N, N, H] tensor.
    rows = F.embedding(index.flatten(), table)  # [N * N, H]
    return rows.t().reshape([1, table.shape[1], *index.shape])


class RelativePositionBias(nn.Layer):
    """One table for all blocks (pre-training); the index belongs to the encoder."""

    def __init__(self, grid_size: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = make_table(self, grid_size, num_heads)

    def forward(self, index: paddle.Tensor) -> paddle.Tensor:
        """Bias `[1, H, N, N]`."""
        return gather_bias(self.relative_position_bias_table, index)
