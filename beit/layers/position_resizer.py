"""Position tables of one patch grid, resized at run time for images of another grid."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import paddle
from paddle import nn

from beit.layers.patch_embed import PatchEmbed
from beit.layers.relative_position import gather_bias
from beit.positions import (
    CLASS_ROWS,
    Grid,
    Interpolation,
    bicubic_matrix,
    offset_matrix,
    relative_position_index,
)

# h, w patch grid; N = h * w + 1 tokens; H heads; D width; T = (2h - 1)(2w - 1) + 3 table rows


class PositionResizer:
    """Resizes positions learned on the grid `source` for images of the grid `target`, both (h, w) in patches.

    The resize is that of loading a checkpoint (`beit.positions`), as one matrix per axis on the device; it is
    differentiable. `interpolation` is the rule for relative position tables.
    """

    def __init__(self, source: Grid, target: Grid, interpolation: Interpolation = "geometric") -> None:
        self._source = source
        self._index = paddle.to_tensor(relative_position_index(target))
        sides = [(2 * s - 1, 2 * t - 1) for s, t in zip(source, target, strict=True)]
        self._offsets = [_tensor(offset_matrix(*pair, interpolation)) for pair in sides]
        self._places = [_tensor(bicubic_matrix(*pair)) for pair in zip(source, target, strict=True)]

    def bias(self, owner: nn.Layer, shared: paddle.Tensor | None = None) -> paddle.Tensor | None:
        """Bias `[1, H, N, N]` of the owner's table, if it has one, plus the shared bias, if there is one."""
        table = owner.relative_position_bias_table
        if table is None:
            return shared
        height, width = self._source
        image = table[:-CLASS_ROWS].reshape([2 * height - 1, 2 * width - 1, -1])
        offsets = _resize(image, self._offsets).reshape([-1, table.shape[1]])
        own = gather_bias(paddle.concat([offsets, table[-CLASS_ROWS:]]), self._index)
        return own if shared is None else own + shared

    def positions(self, pos_embed: paddle.Tensor) -> paddle.Tensor:
        """Absolute positions `[1, N, D]` of the target grid."""
        width = pos_embed.shape[-1]
        image = pos_embed[0, 1:].reshape([*self._source, width])
        patches = _resize(image, self._places).reshape([1, -1, width])
        return paddle.concat([pos_embed[:, :1], patches], axis=1)


def find_resizer(
    patch_embed: PatchEmbed, images: paddle.Tensor, interpolation: Interpolation = "geometric"
) -> PositionResizer | None:
    """The resizer for images `[B, 3, height, width]`; None where their grid is the model's, or unknown (a traced graph)."""
    height, width = images.shape[-2:]
    grid = (height // patch_embed.patch_size, width // patch_embed.patch_size)
    if grid == patch_embed.grid_size or -1 in (height, width):
        return None
    return _cached(patch_embed.grid_size, grid, interpolation, str(paddle.get_device()))


@lru_cache(maxsize=4)  # an index of 40 x 40 patches has 20 MB
def _cached(source: Grid, target: Grid, interpolation: Interpolation, device: str) -> PositionResizer:
    """Cached resizer between two grids; `device` is part of the key because its tensors are on that device."""
    return PositionResizer(source, target, interpolation)


def _resize(image: paddle.Tensor, matrices: list[paddle.Tensor]) -> paddle.Tensor:
    """Image `[h, w, C]` to `[h', w', C]` by a matrix `[h', h]` and one `[w', w]`."""
    down, across = matrices
    height, width, channels = image.shape
    image = paddle.matmul(down, image.reshape([height, width * channels])).reshape([-1, width, channels])
    return paddle.matmul(across, image)  # broadcast over rows


def _tensor(matrix: np.ndarray) -> paddle.Tensor:
    return paddle.to_tensor(matrix, dtype="float32")
