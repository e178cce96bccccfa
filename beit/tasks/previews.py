"""Images that show what a model reads and predicts, as uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from paddle import Tensor
from PIL import Image

# B images, H, W their size, h, w patch grid

MASK_GRAY = 127
"""Gray level of masked patches."""


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Channels-last uint8 `[B, H, W, 3]` of float images `[B, 3, H, W]` in [0, 1]; values outside are clipped."""
    return np.rint(255 * images.clip(0.0, 1.0)).astype(np.uint8).transpose(0, 2, 3, 1)


def denormalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """The inverse of `beit.data.batch_transforms.normalize`: uint8 `[B, H, W, 3]`.

    Args:
        images: normalized, `[B, 3, H, W]`.
        mean: of the channels, on [0, 1].
        std: of the channels, on [0, 1].
    """
    shift, scale = (np.asarray(value, np.float32).reshape(-1, 1, 1) for value in (mean, std))
    return to_uint8(images.numpy() * scale + shift)


def tile(images: np.ndarray, columns: int = 4) -> np.ndarray:
    """Complete rows of `columns` images in one image, uint8 `[rows * H, columns * W, 3]`; fewer images make one row.

    Args:
        images: uint8 `[B, H, W, 3]`.
        columns: images per row.
    """
    rows = [images[k : k + columns] for k in range(0, len(images) - columns + 1, columns)] or [images]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def gray_out(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Images with their masked patches in gray.

    Args:
        images: uint8 `[B, H, W, 3]`.
        mask: bool `[B, h, w]`, True for masked patches.
    """
    height, width = images.shape[1] // mask.shape[1], images.shape[2] // mask.shape[2]
    pixels = mask.repeat(height, axis=1).repeat(width, axis=2)
    return np.where(pixels[..., None], np.uint8(MASK_GRAY), images)


def draw_masked_images(
    images: np.ndarray, mask: np.ndarray, decoded: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """One row per image: the original, the masked image, the decoded images; uint8 `[B * H, columns * W, 3]`.

    Args:
        images: uint8 `[B, H, W, 3]`.
        mask: bool `[B, h, w]`, True for masked patches.
        decoded: float arrays `[B, 3, any, any]` in [0, 1], one per further column, resized to H x W.
    """
    size = (images.shape[2], images.shape[1])
    columns = [images, gray_out(images, mask)]
    for pixels in map(to_uint8, decoded):
        resized = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in pixels]
        columns.append(np.stack([np.asarray(image) for image in resized]))
    return np.concatenate(list(np.concatenate(columns, axis=2)))
