"""The end of the image pipeline, on the device: 8-bit batches become what the network reads.

Shapes: B batch, H, W input size, N erase boxes per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std, per channel, in float32.

    Args:
        images: uint8 `[B, 3, H, W]`.
        mean: of the channels, on [0, 1].
        std: of the channels, on [0, 1].
    """
    # Of the size of an image: Paddle's CPU kernels repeat the last axes faster than they stretch numbers of channels.
    shift, scale = (
        paddle.assign(np.asarray(value, np.float32)).reshape([-1, 1, 1]).expand(images.shape[1:])
        for value in (mean, std)
    )
    return (images.astype("float32") / 255.0 - shift) / scale  # [B, 3, H, W]


def erase(images: Tensor, boxes: Tensor, mode: Literal["pixel", "rand", "const"]) -> Tensor:
    """Normalized images with their boxes filled.

    The noise is Paddle's on the device, not the item's: it depends on `paddle.seed`.

    Args:
        images: float `[B, 3, H, W]`, normalized.
        boxes: int32 `[B, N, 4]`: top, left, height, width; zeros for none.
        mode: "pixel" each pixel and channel N(0, 1), "rand" one N(0, 1) color per box, "const" zero.
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
    """Which pixels lie in the box of each image: bool `[B, 1, H, W]`.

    Args:
        boxes: int `[B, 4]`: top, left, height, width.
    """
    top, left, rows, columns = (edge.reshape([-1, 1, 1, 1]) for edge in boxes.unbind(axis=1))
    y = paddle.arange(height, dtype=boxes.dtype).reshape([1, 1, -1, 1])
    x = paddle.arange(width, dtype=boxes.dtype).reshape([1, 1, 1, -1])
    return ((y >= top) & (y < top + rows)) & ((x >= left) & (x < left + columns))


def to_device(batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of a batch on the device of this rank; on a GPU the host does not wait for the copy."""
    if paddle.get_device().startswith("gpu"):
        pinned = paddle.CUDAPinnedPlace()
        return {
            name: paddle.to_tensor(array, place=pinned).cuda(blocking=False) for name, array in batch.items()
        }
    tensors = {name: paddle.empty(list(array.shape), str(array.dtype)) for name, array in batch.items()}
    for name, tensor in tensors.items():
        tensor.set_value(batch[name])  # paddle.to_tensor loses 70 bytes of host memory with each call (3.3.1)
    return tensors
