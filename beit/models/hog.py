"""A teacher of VQ-KD without weights: gradients and colors of the patches themselves."""

from __future__ import annotations

import math

import paddle
from paddle import nn
from paddle.nn import functional as F

# B batch, N patches (row-major), h, w patch grid, T channels of the features

_BINS = 9
_CELLS = 2  # along a side of a patch; with patches of 16 pixels the cells have 8, as MaskFeat's
_SOBEL = ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0))


class Hog(nn.Layer):
    """Histograms of oriented gradients of each patch, and its mean color, for images in [0, 1].

    Each of the 2 x 2 cells of a patch has for each color a histogram of 9 orientations from 0 to 180 degrees, weighted with
    the length of the gradients and scaled to length 1.
    Source: MaskFeat, arXiv 2112.09133, section 3.2; its `HOGLayerC`.
    Deviation: the mean is subtracted from each histogram, and 0.5 from the colors. Otherwise all features point in nearly
    one direction, the cosine loss of a constant is low, and the codebook collapses. MaskFeat has no colors, and its
    histograms are zero where a patch is flat.

    Args:
        patch_size: side length of a patch in pixels, even.

    Raises:
        ValueError: the patch size is odd.
    """

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        if patch_size % _CELLS:
            raise ValueError(
                f"TOKENIZER.TEACHER hog divides patches into {_CELLS} x {_CELLS} cells; TOKENIZER.PATCH_SIZE = {patch_size} is odd"
            )
        self.patch_size = patch_size
        self.dim = 3 * _BINS * _CELLS**2 + 3
        sobel = paddle.to_tensor(_SOBEL)
        filters = paddle.stack([sobel, sobel.T]).unsqueeze(1)  # [2, 1, 3, 3], along x and y
        self.register_buffer("filters", filters, persistable=False)

    @paddle.no_grad()
    def forward(self, images: paddle.Tensor) -> paddle.Tensor:
        """Features `[B, N, T]` of images `[B, 3, height, width]` in [0, 1]."""
        batch, _, height, width = images.shape
        planes = F.pad(images.reshape([-1, 1, height, width]), [1, 1, 1, 1], mode="reflect")
        along_x, along_y = F.conv2d(planes, self.filters).unbind(axis=1)  # [3 B, height, width]
        bins = (paddle.atan2(along_x, along_y) * (_BINS / math.pi)).floor().astype("int64") % _BINS
        lengths = (along_x.square() + along_y.square()).sqrt().unsqueeze(-1)
        weights = (F.one_hot(bins, _BINS) * lengths).transpose([0, 3, 1, 2])  # [3 B, bins, height, width]
        cells = F.normalize(F.avg_pool2d(weights, self.patch_size // _CELLS), axis=1)
        cells = cells - cells.mean(1, keepdim=True)
        h, w = height // self.patch_size, width // self.patch_size
        histograms = cells.reshape([batch, 3 * _BINS, h, _CELLS, w, _CELLS]).transpose([0, 2, 4, 1, 3, 5])
        colors = F.avg_pool2d(images, self.patch_size).transpose([0, 2, 3, 1]) - 0.5
        features = [histograms.reshape([batch, h * w, -1]), colors.reshape([batch, h * w, 3])]
        return paddle.concat(features, axis=-1)
