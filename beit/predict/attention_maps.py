"""Where a model looks: maps over the patch grid from its attention weights, drawn over the picture. Floor 4.

The weights are those of the network itself (`Beit.forward_outputs`), so relative position biases are in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from beit.predict.classifier import Classifier

# H heads; N = h * w + 1 tokens, class token first; h, w patch grid

# From dark to bright, so that the map also reads in gray.
_RAMP = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)


def attention_map(weights: np.ndarray, grid: tuple[int, int], *, from_patches: bool) -> np.ndarray:
    """What the pooled token takes from each patch, `[…, h, w]`, for weights `[…, N, N]` (heads are kept).

    Args:
        weights: rows sum to 1.
        grid: (h, w).
        from_patches: the model classifies the mean of the patch tokens, so their rows are averaged; else the row of
            the class token.
    """
    rows = weights[..., 1:, 1:].mean(axis=-2) if from_patches else weights[..., 0, 1:]
    return rows.reshape(*rows.shape[:-1], *grid)


def rollout(weights: Sequence[np.ndarray], grid: tuple[int, int], *, from_patches: bool) -> np.ndarray:
    """Attention followed through all blocks down to the patches, `[h, w]`, for weights `[H, N, N]` of each block.

    Heads are averaged, half of each token is taken to pass by on the residual path, and the blocks are multiplied.
    Source: Abnar and Zuidema 2020, arXiv 2005.00928, section 3.
    """
    total = np.eye(weights[0].shape[-1])
    for block in weights:
        total = (0.5 * block.mean(axis=0) + 0.5 * np.eye(len(total))) @ total
    return attention_map(total, grid, from_patches=from_patches)


def rollout_of(predictor: Classifier, attentions: Sequence[np.ndarray]) -> np.ndarray:
    """The rollout `[h, w]` of the weights of all blocks of a classifier."""
    return rollout(attentions, **_pooling(predictor))


def image_attentions(predictor: Classifier, image: Image.Image) -> list[np.ndarray]:
    """Attention weights `[H, N, N]` of every block for an RGB picture."""
    blocks = range(predictor.model.depth)
    return [weights[0].numpy() for weights in predictor.outputs([image], attentions=blocks).attentions]


def image_maps(predictor: Classifier, attentions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The maps `[H, h, w]` of blocks whose weights are given."""
    return [attention_map(weights, **_pooling(predictor)) for weights in attentions]


def overlay(view: Image.Image, values: np.ndarray, *, opacity: float = 0.6) -> Image.Image:
    """The picture a model saw (`Classifier.view`) under the colors of a map `[h, w]`, dark for its least value.

    A patch that stands out alone keeps its place: the map is scaled from its least to its largest value.
    """
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    positions = np.linspace(0.0, 1.0, len(_RAMP))
    colors = np.stack([np.interp(share, positions, _RAMP[:, k]) for k in range(3)], axis=-1)
    heat = Image.fromarray(np.rint(colors).astype(np.uint8)).resize(view.size, Image.Resampling.BICUBIC)
    return Image.blend(view.convert("RGB"), heat, opacity)


def _pooling(predictor: Classifier) -> dict[str, Any]:
    model = predictor.model
    return {"grid": model.patch_embed.grid_size, "from_patches": model.use_mean_pooling}
