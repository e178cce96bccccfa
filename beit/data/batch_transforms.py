"""Transforms of whole batches on the device: copying, normalization, random erasing.

Shapes: B batch, H, W input size, N erase boxes per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor


def unit_range(images: Tensor) -> Tensor:
    """Uint8 images as float32 in [0, 1], the input of tokenizers and teachers."""
    return images.astype("float32") / 255.0


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std, per channel, in float32.

    Args:
        images: uint8 `[B, 3, H, W]`.
        mean: of each channel, for values in [0, 1].
        std: of each channel, for values in [0, 1].
    """
    # Expanded to a whole image: Paddle's CPU kernels broadcast over the batch faster than over pixels.
    shift, scale = (
        paddle.assign(np.asarray(value, np.float32)).reshape([-1, 1, 1]).expand(images.shape[1:])
        for value in (mean, std)
    )
    return (unit_range(images) - shift) / scale  # [B, 3, H, W]


def erase(images: Tensor, boxes: Tensor, mode: Literal["pixel", "rand", "const"]) -> Tensor:
    """Fill boxes of normalized images with noise or zeros, `[B, 3, H, W]`.

    The noise comes from Paddle's generator on the device and depends on `paddle.seed`, not on the seeds of the samples.

    Args:
        images: float `[B, 3, H, W]`, normalized.
        boxes: int32 `[B, N, 4]`: top, left, height, width in pixels; zeros for no box.
        mode: "pixel" draws each pixel and channel from N(0, 1), "rand" one color per box from N(0, 1), "const" is zero.
    """
    batch, channels, height, width = images.shape
    draw_fill: dict[str, Callable[[], Tensor]] = {
        "pixel": lambda: paddle.randn([batch, channels, height, width], images.dtype),
        "rand": lambda: paddle.randn([batch, channels, 1, 1], images.dtype),
        "const": lambda: paddle.zeros([1], images.dtype),
    }
    for box in boxes.unbind(axis=1):
        images = paddle.where(box_mask(box, height, width), draw_fill[mode](), images)
    return images


def box_mask(boxes: Tensor, height: int, width: int) -> Tensor:
    """True for the pixels inside of each image's box, bool `[B, 1, H, W]`.

    Args:
        boxes: int `[B, 4]`: top, left, height, width in pixels.
        height: H.
        width: W.
    """
    top, left, rows, columns = (edge.reshape([-1, 1, 1, 1]) for edge in boxes.unbind(axis=1))
    y = paddle.arange(height, dtype=boxes.dtype).reshape([1, 1, -1, 1])
    x = paddle.arange(width, dtype=boxes.dtype).reshape([1, 1, 1, -1])
    return ((y >= top) & (y < top + rows)) & ((x >= left) & (x < left + columns))


def to_device(batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Copy a batch to the device of this rank. On a GPU the copy is asynchronous."""
    if paddle.get_device().startswith("gpu"):
        pinned = paddle.CUDAPinnedPlace()
        return {
            name: paddle.to_tensor(array, place=pinned).cuda(blocking=False) for name, array in batch.items()
        }
    tensors = {name: paddle.empty(list(array.shape), str(array.dtype)) for name, array in batch.items()}
    for name, tensor in tensors.items():
        tensor.set_value(batch[name])  # paddle.to_tensor loses 70 bytes of host memory with each call (3.3.1)
    return tensors
