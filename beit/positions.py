"""Relative position index, and positions and patch embeddings for another image or patch size. NumPy only.

Every resize is one matrix per axis.

Source: arXiv 2106.08254; unilm/beit/run_class_finetuning.py L346-411 (geometric coordinates, cubic spline).
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

# h, w grid in patches; N = h w + 1 tokens; T = (2h-1)(2w-1)+3 table rows; H heads; D width; C channels; P patch side

Grid = tuple[int, int]
Interpolation = Literal["geometric", "linear", "bilinear"]

CLASS_ROWS = 3
"""Last rows of a relative position table: class token to patch, patch to class token, class token to itself."""

_RATIO_BOUNDS = (1.01, 1.5)
_RATIO_TOLERANCE = 1e-6


def num_table_rows(grid: Grid) -> int:
    """Rows T of the relative position table for a grid."""
    return (2 * grid[0] - 1) * (2 * grid[1] - 1) + CLASS_ROWS


def table_side(num_rows: int) -> int:
    """Side of the square grid whose relative position table has `num_rows` rows; 0 if there is none."""
    side = round(max(num_rows - CLASS_ROWS, 0) ** 0.5)
    is_square_grid = side % 2 == 1 and side * side == num_rows - CLASS_ROWS
    return (side + 1) // 2 if is_square_grid else 0


def positions_side(num_positions: int) -> int:
    """Side of the square grid that has `num_positions` absolute positions N; 0 if there is none."""
    side = round(max(num_positions - 1, 0) ** 0.5)
    return side if side * side == num_positions - 1 else 0


def index_grid(index: np.ndarray) -> Grid | None:
    """The (h, w) grid of a relative position index `[N, N]`; None if it is not one."""
    is_square = index.ndim == 2 and index.shape[0] == index.shape[1] > 1
    if not is_square or index.dtype.kind not in "iu":
        return None
    first_patch = index[1, 1:]  # falls by one per column, by more at the end of a row
    ends = np.flatnonzero(np.diff(first_patch) != -1)
    width = int(ends[0]) + 1 if ends.size else first_patch.size
    grid = first_patch.size // width, width
    return grid if grid[0] * grid[1] == first_patch.size else None


def relative_position_index(grid_size: Grid) -> np.ndarray:
    """Row of the relative position table for each (query, key) pair, int64 `[N, N]`; class token first, patches row-major.

    Args:
        grid_size: (h, w) in patches.

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


def resize_relative_position_bias(
    table: np.ndarray, source: Grid, target: Grid, interpolation: Interpolation = "geometric"
) -> np.ndarray:
    """Resize a relative position table `[T, H]` of the source grid to `[T', H]` of the target grid.

    Offsets beyond the last source offset take its value. Shrinking crops the table around its center. The three rows
    of the class token are kept.

    Deviation: an axis that keeps its size keeps its values. The official code handles square grids only; timm squeezes
    such an axis by the lower bound of the ratio.

    Args:
        table: bias per offset and head.
        source, target: (h, w) in patches.
        interpolation: "geometric" is the official rule: source offsets at geometric distances, so that near ones keep
            their spacing, and a cubic not-a-knot spline. "linear" interpolates linearly between the same coordinates,
            as timm does. "bilinear" is the rule of transformers: source offsets at equal distances, scaled to the
            target's range as the pixels of an image are.
    Raises:
        ValueError: the number of rows is not that of the source grid, or the interpolation is unknown.
    """
    if table.shape[0] != num_table_rows(source):
        raise ValueError(
            f"a relative position table of a {source[0]} x {source[1]} grid has {num_table_rows(source)} rows, "
            f"got {table.shape[0]}"
        )
    if interpolation not in get_args(Interpolation):
        raise ValueError(
            f"interpolation is {interpolation!r}; known: {', '.join(map(repr, get_args(Interpolation)))}"
        )
    if source == target:
        return table
    offsets, class_rows = table[:-CLASS_ROWS], table[-CLASS_ROWS:]
    image = offsets.reshape(2 * source[0] - 1, 2 * source[1] - 1, -1).astype(np.float64)
    down, across = (
        offset_matrix(2 * s - 1, 2 * t - 1, interpolation) for s, t in zip(source, target, strict=True)
    )
    image = np.einsum("ij,jkh,lk->ilh", down, image, across, optimize=True)
    return np.concatenate([image.reshape(-1, table.shape[1]).astype(table.dtype), class_rows])


def geometric_ratio(num_source: int, num_target: int) -> float:
    """Ratio q between the distances of neighboring source offsets: the last midpoint of the official bisection."""
    low, high = _RATIO_BOUNDS
    ratio = low
    while high - low > _RATIO_TOLERANCE:
        ratio = (low + high) / 2
        if (1 - ratio ** (num_source // 2)) / (1 - ratio) > num_target // 2:
            high = ratio
        else:
            low = ratio
    return ratio


def geometric_offsets(num_source: int, num_target: int) -> np.ndarray:
    """Coordinates of the source offsets, in units of target offsets: 0, ±1, ±(1 + q), ±(1 + q + q²), …"""
    ratio = geometric_ratio(num_source, num_target)
    positive = np.cumsum(ratio ** np.arange(num_source // 2))
    return np.concatenate([-positive[::-1], [0.0], positive])


def offset_matrix(num_source: int, num_target: int, interpolation: Interpolation = "geometric") -> np.ndarray:
    """Matrix `[num_target, num_source]` that resizes one axis of a table from source to target offsets."""
    if num_source == num_target:
        return np.eye(num_source)
    if interpolation == "bilinear":
        return bilinear_matrix(num_source, num_target)
    source = geometric_offsets(num_source, num_target)
    half = num_target // 2
    target = np.clip(np.arange(-half, half + 1), source[0], source[-1])
    if interpolation == "linear":
        return np.stack([np.interp(target, source, unit) for unit in np.eye(num_source)], axis=1)
    return spline_matrix(source, target)


def spline_matrix(knots: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Matrix `[points, knots]` that evaluates at `points` the not-a-knot cubic spline through values at `knots`.

    Through three knots or fewer it evaluates the polynomial of the lowest degree instead: a parabola, line or constant.
    """
    count = len(knots)
    if count <= 3:
        powers = np.arange(count)
        return points[:, None] ** powers @ np.linalg.inv(knots[:, None] ** powers)
    step = np.diff(knots)
    # Second derivatives M solve `system @ M = slopes @ values`: the first derivative is continuous at inner knots, the
    # third at the second and the last but one knot.
    system, slopes = np.zeros((2, count, count))
    for i in range(1, count - 1):
        system[i, i - 1 : i + 2] = (step[i - 1] / 6, (step[i - 1] + step[i]) / 3, step[i] / 6)
        slopes[i, i - 1 : i + 2] = (1 / step[i - 1], -1 / step[i - 1] - 1 / step[i], 1 / step[i])
    system[0, :3] = step[1], -step[0] - step[1], step[0]
    system[-1, -3:] = step[-1], -step[-1] - step[-2], step[-2]
    second = np.linalg.solve(system, slopes)
    left = np.clip(np.searchsorted(knots, points, side="right") - 1, 0, count - 2)
    width = step[left]
    a, b = (knots[left + 1] - points) / width, (points - knots[left]) / width
    value = np.eye(count)
    curvature = ((a**3 - a)[:, None] * second[left] + (b**3 - b)[:, None] * second[left + 1]) * (
        width**2 / 6
    )[:, None]
    return a[:, None] * value[left] + b[:, None] * value[left + 1] + curvature


def resize_absolute_position(pos_embed: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Resize absolute positions `[1, N, D]` of the source grid to `[1, N', D]`: bicubic, half-pixel centers.

    The position of the class token is kept.

    Args:
        pos_embed: class token first, patches row-major.
        source, target: (h, w) in patches.
    Raises:
        ValueError: the number of positions is not that of the source grid.
    """
    if pos_embed.shape[1] != source[0] * source[1] + 1:
        raise ValueError(
            f"a {source[0]} x {source[1]} grid has {source[0] * source[1] + 1} positions, got {pos_embed.shape[1]}"
        )
    if source == target:
        return pos_embed
    image = pos_embed[0, 1:].reshape(*source, -1).astype(np.float64)
    down, across = (bicubic_matrix(s, t) for s, t in zip(source, target, strict=True))
    image = np.einsum("ij,jkd,lk->ild", down, image, across, optimize=True)
    patches = image.reshape(1, -1, pos_embed.shape[-1]).astype(pos_embed.dtype)
    return np.concatenate([pos_embed[:, :1], patches], axis=1)


def resample_patch_embedding(weight: np.ndarray, patch_size: int) -> np.ndarray:
    """Resample a patch embedding `[D, C, P, P]` to `[D, C, P', P']`, P' = `patch_size`.

    On resized patches the result gives what `weight` gives on the original ones: the pseudo-inverse of the antialiased
    bicubic resize of a patch is applied to the kernel, as timm does.
    Source: FlexiViT, arXiv 2212.08013, section 3.4; timm/layers/patch_embed.py, `resample_patch_embed`.
    """
    if weight.shape[-2:] == (patch_size, patch_size):
        return weight
    down, across = (
        np.linalg.pinv(antialiased_bicubic_matrix(side, patch_size)) for side in weight.shape[-2:]
    )
    return np.einsum("ji,dcjk,kl->dcil", down, weight.astype(np.float64), across, optimize=True).astype(
        weight.dtype
    )


def bilinear_matrix(num_source: int, num_target: int) -> np.ndarray:
    """Matrix `[num_target, num_source]` of torch's bilinear `interpolate` on one axis, without `align_corners`.

    Beyond the centers of the first and last pixel their values are repeated.
    """
    centers = (np.arange(num_target) + 0.5) * num_source / num_target - 0.5
    pixels = np.arange(num_source)
    return np.stack([np.interp(centers, pixels, unit) for unit in np.eye(num_source)], axis=1)


def bicubic_matrix(num_source: int, num_target: int) -> np.ndarray:
    """Matrix `[num_target, num_source]` of torch's bicubic `interpolate` on one axis, without `align_corners`.

    The cubic kernel has a = -0.75; beyond the edges the first and last value are repeated.
    """
    centers = (np.arange(num_target) + 0.5) * num_source / num_target - 0.5
    first = np.floor(centers).astype(int) - 1
    matrix = np.zeros((num_target, num_source))
    for tap in range(4):
        column = np.clip(first + tap, 0, num_source - 1)
        np.add.at(matrix, (np.arange(num_target), column), _cubic(centers - (first + tap), -0.75))
    return matrix


def antialiased_bicubic_matrix(num_source: int, num_target: int) -> np.ndarray:
    """Matrix `[num_target, num_source]` of the antialiased bicubic resize of Pillow and torch on one axis.

    The cubic kernel has a = -0.5; it is widened when shrinking, and its weights are normalized to sum 1.
    """
    scale = num_source / num_target
    centers = (np.arange(num_target) + 0.5) * scale
    distance = np.arange(num_source)[None, :] + 0.5 - centers[:, None]
    matrix = _cubic(distance / max(scale, 1.0), -0.5)
    return matrix / matrix.sum(axis=1, keepdims=True)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
