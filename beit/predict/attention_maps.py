"""Attention weights and Grad-CAM as maps over the patch grid, drawn over the image.

The weights are those of the network itself (`Beit.forward_outputs`), so they include the relative position biases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

# H heads; N = h * w + 1 tokens, class token first; h, w patch grid; D width

# From dark to bright, so that the map can also be read in gray.
_COLOR_RAMP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)


def attention_map(weights: np.ndarray, grid: tuple[int, int], *, from_patches: bool) -> np.ndarray:
    """How much the pooled token attends to each patch, `[…, h, w]`.

    Args:
        weights: `[…, N, N]`; each row sums to 1.
        grid: (h, w).
        from_patches: True for models that classify the mean of the patch tokens: the rows of all patches are averaged.
            False takes the row of the class token.
    """
    rows = weights[..., 1:, 1:].mean(axis=-2) if from_patches else weights[..., 0, 1:]
    return rows.reshape(*rows.shape[:-1], *grid)


def rollout(weights: Sequence[np.ndarray], grid: tuple[int, int], *, from_patches: bool) -> np.ndarray:
    """Attention rollout: the attention of the pooled token to the patches through all blocks, `[h, w]`.

    Heads are averaged, the residual connection counts as half of each token, and the blocks are multiplied.
    Source: Abnar and Zuidema 2020, arXiv 2005.00928, section 3.

    Args:
        weights: `[H, N, N]` of each block, the first block first.
        grid: (h, w).
        from_patches: as in `attention_map`.
    """
    total = np.eye(weights[0].shape[-1])
    for block in weights:
        total = (0.5 * block.mean(axis=0) + 0.5 * np.eye(len(total))) @ total
    return attention_map(total, grid, from_patches=from_patches)


def grad_cam(tokens: np.ndarray, gradients: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Grad-CAM of the patch tokens after a block, `[h, w]`, 0 or more: where they raise the logit of a class.

    The weight of a channel is the mean of its gradient over the patches.
    Source: Selvaraju et al. 2017, arXiv 1610.02391, equations 1 and 2.

    Args:
        tokens: `[N, D]`.
        gradients: of the logit with respect to the tokens, `[N, D]`.
        grid: (h, w).
    """
    weights = gradients[1:].mean(axis=0)  # [D]
    return np.maximum(tokens[1:] @ weights, 0.0).reshape(grid)


def overlay(view: Image.Image, values: np.ndarray, *, opacity: float = 0.6) -> Image.Image:
    """An image blended with the colors of a map, which are dark for its smallest value and bright for its largest.

    Args:
        view: the model's input as an image (`Classifier.view`), of any size.
        values: `[h, w]`; the map is scaled from its smallest to its largest value.
        opacity: of the colors, 0 to 1.
    """
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    positions = np.linspace(0.0, 1.0, len(_COLOR_RAMP))
    colors = np.stack([np.interp(share, positions, _COLOR_RAMP[:, k]) for k in range(3)], axis=-1)
    heat = Image.fromarray(np.rint(colors).astype(np.uint8)).resize(view.size, Image.Resampling.BICUBIC)
    return Image.blend(view.convert("RGB"), heat, opacity)
