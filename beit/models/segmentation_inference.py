"""Class maps of images of any size: in one piece or with a sliding window, averaged over scales and flips.

Source: mmseg/models/segmentors/encoder_decoder.py (`whole_inference`, `slide_inference`, `aug_test`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import paddle
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.config import image_hw
from beit.models.segmentation_heads import resize_bilinear
from beit.models.upernet import UperNet

# B batch, K classes, H, W size of a scaled image, h, w size of the result (the original image)


@dataclass(frozen=True)
class Protocol:
    """How an image is evaluated.

    Args:
        mode: "slide" averages the logits of overlapping windows; "whole" runs the model once on the whole image.
        window: (height, width) of the windows in pixels; used by "slide" only.
        stride: vertical and horizontal distance of the windows in pixels; used by "slide" only.
        flip: average over the image and its mirror image.
    """

    mode: Literal["slide", "whole"] = "slide"
    window: tuple[int, int] = (512, 512)
    stride: tuple[int, int] = (341, 341)
    flip: bool = False


def build_protocol(config: CfgNode) -> Protocol:
    """The protocol of `TEST.*`, with windows of `DATA.IMAGE_SIZE`.

    Raises:
        ValueError: TEST.STRIDE leaves gaps between windows.
    """
    window, test = image_hw(config), config.TEST
    # 341 for 512 and 426 for 640, as in the official configs.
    stride = (test.STRIDE,) * 2 if test.STRIDE else (window[0] * 2 // 3, window[1] * 2 // 3)
    if stride[0] > window[0] or stride[1] > window[1]:
        raise ValueError(
            f"TEST.STRIDE={test.STRIDE} leaves gaps between windows of DATA.IMAGE_SIZE={config.DATA.IMAGE_SIZE}"
        )
    return Protocol(test.MODE, window, stride, test.FLIP)


@paddle.no_grad()
def segment(
    model: UperNet, images: Sequence[paddle.Tensor], size: tuple[int, int], protocol: Protocol
) -> paddle.Tensor:
    """The class of each pixel, int64 `[B, h, w]`.

    Args:
        model: the model, in evaluation mode.
        images: the normalized images at each scale, `[B, 3, H, W]` of any H and W.
        size: (h, w) of the result.
        protocol: windows and flip.
    """
    if len(images) == 1 and not protocol.flip:  # softmax would not change the argmax
        return resize_bilinear(class_logits(model, images[0], protocol), size).argmax(axis=1)
    return class_probabilities(model, images, size, protocol).argmax(axis=1)


@paddle.no_grad()
def class_probabilities(
    model: UperNet, images: Sequence[paddle.Tensor], size: tuple[int, int], protocol: Protocol
) -> paddle.Tensor:
    """Mean of the softmax over scales and flips, float32 `[B, K, h, w]`; the arguments are those of `segment`."""
    total, count = None, 0
    for image in images:
        for mirrored in (False, True) if protocol.flip else (False,):
            view = image.flip(3) if mirrored else image
            logits = resize_bilinear(class_logits(model, view, protocol), size)
            probabilities = F.softmax(logits.astype("float32"), axis=1)
            probabilities = probabilities.flip(3) if mirrored else probabilities
            total = probabilities if total is None else total + probabilities
            count += 1
    assert total is not None
    return total / count


@paddle.no_grad()
def class_logits(model: UperNet, images: paddle.Tensor, protocol: Protocol) -> paddle.Tensor:
    """Logits `[B, K, H, W]` of normalized images `[B, 3, H, W]`; the mean of all windows that cover a pixel."""
    height, width = images.shape[2:]
    if protocol.mode == "whole":
        return _padded_logits(model, images)
    tops = window_starts(height, protocol.window[0], protocol.stride[0])
    lefts = window_starts(width, protocol.window[1], protocol.stride[1])
    if len(tops) == len(lefts) == 1:
        return _padded_logits(model, images)
    total = paddle.zeros([images.shape[0], model.num_classes, height, width])
    count = paddle.zeros([1, 1, height, width])
    for top in tops:
        for left in lefts:
            rows, columns = slice(top, top + protocol.window[0]), slice(left, left + protocol.window[1])
            logits = _padded_logits(model, images[:, :, rows, columns])
            total[:, :, rows, columns] = total[:, :, rows, columns] + logits.astype("float32")
            count[:, :, rows, columns] = count[:, :, rows, columns] + 1
    return total / count


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Start positions of the windows along one axis; the last window ends at the border of the image.

    Args:
        length: size of the image in pixels; if it is at most `window`, the result is `[0]`.
        window: size of a window in pixels.
        stride: distance of the windows in pixels; the last one may be closer.
    """
    count = max(length - window + stride - 1, 0) // stride + 1
    return [max(min(k * stride, length - window), 0) for k in range(count)]


def _padded_logits(model: UperNet, images: paddle.Tensor) -> paddle.Tensor:
    """Logits `[B, K, H, W]`; the images are padded to a multiple of the patch size with 0, the mean color."""
    patch_size = model.backbone.patch_embed.patch_size
    height, width = images.shape[2:]
    rows, columns = (max(-(-side // patch_size), 2) * patch_size for side in (height, width))
    if (rows, columns) != (height, width):
        images = F.pad(images, [0, columns - width, 0, rows - height])
    return resize_bilinear(model(images), (rows, columns))[:, :, :height, :width]
