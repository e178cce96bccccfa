"""Heads that compute class logits from a feature pyramid: UPerHead, and the auxiliary FCN head of training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.layers.batch_norm import SyncBatchNorm

# B batch, D channels of each pyramid level, C channels inside a head, K classes; levels are ordered from fine to coarse


def resize_bilinear(x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """Resize `[B, C, h, w]` to (height, width), with half-pixel centers."""
    if list(x.shape[2:]) == list(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


class ConvModule(nn.Layer):
    """Convolution with "same" padding and without bias, BatchNorm, ReLU.

    Source: mmcv/cnn/bricks/conv_module.py, with the same initial values (He normal, fan out).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        std = math.sqrt(2.0 / (out_channels * kernel_size**2))
        self.conv = nn.Conv2D(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            weight_attr=nn.initializer.Normal(std=std),
            bias_attr=False,
        )
        self.bn = SyncBatchNorm(out_channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, in, h, w]` to `[B, out, h, w]`."""
        return F.relu(self.bn(self.conv(x)))


def make_classifier(channels: int, num_classes: int) -> nn.Conv2D:
    """1x1 convolution to class logits; initial weights N(0, 0.01), as in mmseg's decode heads."""
    return nn.Conv2D(channels, num_classes, 1, weight_attr=nn.initializer.Normal(std=0.01))


class UperHead(nn.Layer):
    """UPerHead: pyramid pooling on the coarsest level, a top-down pathway, and the fusion of all levels at the finest.

    Attribute names are those of the published files.
    Source: arXiv 1807.10221; mmseg/models/decode_heads/uper_head.py and psp_head.py.

    Args:
        in_channels: D.
        channels: C.
        num_classes: K.
        num_levels: number of levels of the pyramid.
        pool_scales: side lengths of the pooled maps.
        dropout: probability with which a channel is dropped before the classifier, in [0, 1).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        channels: int,
        num_classes: int,
        num_levels: int = 4,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.psp_modules = nn.LayerList(
            nn.Sequential(nn.AdaptiveAvgPool2D(scale), ConvModule(in_channels, channels, 1))
            for scale in pool_scales
        )
        self.bottleneck = ConvModule(in_channels + len(pool_scales) * channels, channels, 3)
        fine = num_levels - 1
        self.lateral_convs = nn.LayerList(ConvModule(in_channels, channels, 1) for _ in range(fine))
        self.fpn_convs = nn.LayerList(ConvModule(channels, channels, 3) for _ in range(fine))
        self.fpn_bottleneck = ConvModule(num_levels * channels, channels, 3)
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = make_classifier(channels, num_classes)

    def forward(self, pyramid: Sequence[paddle.Tensor]) -> paddle.Tensor:
        """Logits `[B, K, h, w]` at the size of the finest level.

        Args:
            pyramid: maps `[B, D, h_i, w_i]`, from fine to coarse.
        """
        # With indices, because Paddle's tracing supports neither zip(strict=...) nor `*fine, coarse = pyramid`.
        maps = [conv(pyramid[i]) for i, conv in enumerate(self.lateral_convs)]
        maps.append(self._pool(pyramid[-1]))
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + resize_bilinear(maps[i], maps[i - 1].shape[2:])
        outputs = [conv(maps[i]) for i, conv in enumerate(self.fpn_convs)]
        outputs = [resize_bilinear(level, maps[0].shape[2:]) for level in (*outputs, maps[-1])]
        return self.conv_seg(self.dropout(self.fpn_bottleneck(paddle.concat(outputs, axis=1))))

    def _pool(self, x: paddle.Tensor) -> paddle.Tensor:
        """Pyramid pooling: `[B, D, h, w]` to `[B, C, h, w]`."""
        context = [resize_bilinear(module(x), x.shape[2:]) for module in self.psp_modules]
        return self.bottleneck(paddle.concat([x, *context], axis=1))


class FcnHead(nn.Layer):
    """3x3 convolutions and a classifier, applied to one level.

    Source: mmseg/models/decode_heads/fcn_head.py (`concat_input=False`).

    Args:
        in_channels: D.
        channels: C.
        num_classes: K.
        num_convs: number of convolutions, 1 or more; the published models have one.
        dropout: probability with which a channel is dropped before the classifier, in [0, 1).
    """

    def __init__(
        self, in_channels: int, *, channels: int, num_classes: int, num_convs: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (num_convs - 1)]
        self.convs = nn.LayerList(ConvModule(width, channels, 3) for width in widths)
        self.dropout = nn.Dropout2D(dropout)
        self.conv_seg = make_classifier(channels, num_classes)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Logits `[B, K, h, w]` of a map `[B, D, h, w]`."""
        for conv in self.convs:
            x = conv(x)
        return self.conv_seg(self.dropout(x))
