"""Random masks for masked image modeling: block-wise (a maximum number of patches in v1, an exact one in v2) or single
patches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from yacs.config import CfgNode

from beit.config import image_hw

# h, w patch grid; L = h * w patches, row-major

MaskGenerator = Callable[[np.random.Generator], np.ndarray]

_TRIES = 10  # draws per block
_LOG_ASPECT = -math.log(0.3)  # height / width of a block is log-uniform from 0.3 to 1 / 0.3
# For the 14 x 14 grid; on other grids the same share of the patches is masked.
_OFFICIAL_PATCHES, _OFFICIAL_MASKED, _OFFICIAL_BLOCK = 196, 75, 16


@dataclass(frozen=True)
class BlockMask:
    """Block-wise masks bool `[L]`: blocks are added until `num_patches` are masked or ten draws in a row do not fit.

    BEiT masks at most `num_patches` (75 in two thirds of the masks, 74.5 on average, for the official numbers). BEiT v2
    sets `exact`: single random patches are added until the number is reached.
    Source: arXiv 2106.08254, algorithm 1; unilm/beit/masking_generator.py, unilm/beit2/masking_generator.py.

    Args:
        grid: (h, w) patches.
        num_patches: number of patches to mask.
        min_block: patches of the smallest block.
        max_block: patches of the largest block.
        exact: mask exactly `num_patches`.
    """

    grid: tuple[int, int]
    num_patches: int
    min_block: int
    max_block: int
    exact: bool = False

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros(self.grid, bool)
        count = 0
        while count < self.num_patches:
            added = self._add_block(mask, min(self.num_patches - count, self.max_block), rng)
            if not added:
                break
            count += added
        flat = mask.reshape(-1)
        if self.exact and count < self.num_patches:
            visible = np.flatnonzero(~flat)
            flat[rng.choice(visible, self.num_patches - count, replace=False)] = True
        return flat

    def _add_block(self, mask: np.ndarray, remaining: int, rng: np.random.Generator) -> int:
        """Add one block with at most `remaining` new patches; return their number, 0 if ten draws do not fit."""
        height, width = self.grid
        for _ in range(_TRIES):
            # Real-valued, and from high to low when few patches remain, as in the official code.
            area = self.min_block + (remaining - self.min_block) * rng.random()
            aspect = math.exp(rng.uniform(-_LOG_ASPECT, _LOG_ASPECT))
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows >= height or columns >= width:
                continue
            top = int(rng.integers(0, height - rows, endpoint=True))
            left = int(rng.integers(0, width - columns, endpoint=True))
            block = mask[top : top + rows, left : left + columns]
            added = int(block.size - block.sum())
            if 0 < added <= remaining:
                block[:] = True
                return added
        return 0


@dataclass(frozen=True)
class RandomMask:
    """Masks of `num_patches` single patches, bool `[L]`: the ablation of arXiv 2106.08254, table 4."""

    grid: tuple[int, int]
    num_patches: int

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        mask = np.zeros(self.grid[0] * self.grid[1], bool)
        mask[rng.choice(mask.size, self.num_patches, replace=False)] = True
        return mask


def build_mask_generator(config: CfgNode) -> MaskGenerator:
    """The mask generator of MASK.* for the patch grid of DATA.IMAGE_SIZE and MODEL.PATCH_SIZE.

    Numbers that the config does not set are the official ones (75 masked, smallest block 16, of 196) times the number
    of patches / 196, rounded.

    Raises:
        ValueError: no patch would stay visible, the smallest block is larger than the largest, or the grid has one row
            or column, where no block fits.
    """
    grid = (image_hw(config)[0] // config.MODEL.PATCH_SIZE, image_hw(config)[1] // config.MODEL.PATCH_SIZE)
    total, rule = grid[0] * grid[1], config.MASK
    num_patches = rule.NUM_PATCHES or max(1, round(_OFFICIAL_MASKED * total / _OFFICIAL_PATCHES))
    min_block = rule.MIN_BLOCK or max(1, round(_OFFICIAL_BLOCK * total / _OFFICIAL_PATCHES))
    max_block = rule.MAX_BLOCK or num_patches
    where = f"the grid of {grid[0]} x {grid[1]} patches"
    if num_patches >= total:
        raise ValueError(f"MASK.NUM_PATCHES = {num_patches}, but {where} has {total}; some must stay visible")
    if rule.RULE == "random":
        return RandomMask(grid, num_patches)
    if min(grid) < 2:
        raise ValueError(f"no block fits in {where}: take smaller patches, or MASK.RULE random")
    if not min_block <= min(max_block, num_patches):
        raise ValueError(
            f"MASK.MIN_BLOCK = {min_block} is more than MASK.MAX_BLOCK = {max_block} or MASK.NUM_PATCHES = "
            f"{num_patches} on {where}; set MASK.MIN_BLOCK"
        )
    return BlockMask(grid, num_patches, min_block, max_block, exact=rule.RULE == "exact")
