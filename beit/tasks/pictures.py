"""Pictures of what a task sees and makes, as uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

# B images, H, W their size, h, w patch grid

_HIDDEN = 127  # gray level of hidden patches


def draw_masked_images(
    images: np.ndarray, mask: np.ndarray, grid: tuple[int, int], decoded: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """One row per image: original, with hidden patches gray, then what was decoded; uint8 `[B * H, columns * W, 3]`.

    Args:
        images: uint8 `[B, 3, H, W]`.
        mask: bool `[B, h * w]`.
        grid: (h, w).
        decoded: pictures `[B, 3, any, any]` in [0, 1], resized to the originals.
    """
    height, width = images.shape[-2:]
    cell = (height // grid[0], width // grid[1])
    hidden = mask.reshape(-1, 1, *grid).repeat(cell[0], axis=2).repeat(cell[1], axis=3)
    columns = [images, np.where(hidden, np.uint8(_HIDDEN), images)]
    columns += [resize_pictures(pictures, (height, width)) for pictures in decoded]
    rows = np.concatenate(columns, axis=3)  # [B, 3, H, columns * W]
    return np.ascontiguousarray(np.concatenate(list(rows), axis=1).transpose(1, 2, 0))


def resize_pictures(pictures: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Uint8 `[B, 3, height, width]` of pictures `[B, 3, any, any]` in [0, 1]."""
    pixels = np.rint(pictures.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    resized = [Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC) for picture in pixels]
    return np.stack([np.asarray(picture) for picture in resized]).transpose(0, 3, 1, 2)


def tile(images: np.ndarray, columns: int = 4) -> np.ndarray:
    """Whole rows of `columns` images as one picture, uint8 `[rows * H, columns * W, 3]`; fewer images make one row.

    Args:
        images: uint8 `[B, 3, H, W]`.
    """
    rows = [images[k : k + columns] for k in range(0, len(images) - columns + 1, columns)] or [images]
    pixels = np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))
