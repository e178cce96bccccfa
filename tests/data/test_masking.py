"""Masks for masked image modeling: counts, frequencies, other grids."""

from __future__ import annotations

import math

import numpy as np
import pytest

from beit.config import get_config
from beit.data.masking import BlockMask, RandomMask, build_mask_generator

DRAWS = 2000  # the statistics below hold for 10,000 too, which take a second


def many_masks(generator, count=DRAWS, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([generator(rng) for _ in range(count)])


def slow_mask(rng, *, exact):
    """The official algorithm patch by patch, for 14 x 14 patches, 75 masked, smallest block 16."""
    masked = set()
    while len(masked) < 75:
        before = len(masked)
        for _ in range(10):
            remaining = 75 - len(masked)
            area = 16 + (remaining - 16) * rng.random()
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if w < 14 and h < 14:
                top, left = rng.integers(0, 14 - h + 1), rng.integers(0, 14 - w + 1)
                block = {(y, x) for y in range(top, top + h) for x in range(left, left + w)}
                if 0 < len(block - masked) <= remaining:
                    masked |= block
                    break
        if len(masked) == before:
            break
    mask = np.zeros((14, 14), bool)
    for patch in masked:
        mask[patch] = True
    mask = mask.reshape(-1)
    if exact and len(masked) < 75:
        mask[rng.choice(np.flatnonzero(~mask), 75 - len(masked), replace=False)] = True
    return mask


@pytest.mark.parametrize("exact", [False, True])
def test_equals_the_official_algorithm_patch_by_patch(exact):
    generator = BlockMask((14, 14), 75, 16, 75, exact)
    for seed in range(50):
        expected = slow_mask(np.random.default_rng(seed), exact=exact)
        np.testing.assert_array_equal(generator(np.random.default_rng(seed)), expected)


def test_v1_counts_are_distributed_as_the_official_ones():
    """Official code: 67 % of 5000 masks have exactly 75, mean 74.5, minimum 64."""
    counts = many_masks(build_mask_generator(get_config())).sum(1)
    assert counts.max() == 75
    assert 60 <= counts.min() <= 70
    assert (counts == 75).mean() == pytest.approx(0.67, abs=0.03)
    assert counts.mean() == pytest.approx(74.5, abs=0.1)


def test_v2_always_masks_exactly_75():
    masks = many_masks(build_mask_generator(get_config(opts=["MASK.RULE", "exact"])))
    assert masks.dtype == bool
    assert set(masks.sum(1)) == {75}


@pytest.mark.parametrize("rule", ["at_most", "exact", "random"])
def test_frequencies_are_symmetric_and_no_patch_is_left_out(rule):
    """The center is masked more often than the borders, all borders equally (mmpretrain never masks the last row)."""
    share = many_masks(build_mask_generator(get_config(opts=["MASK.RULE", rule]))).mean(0).reshape(14, 14)
    assert share.mean() == pytest.approx(75 / 196, abs=0.005)
    assert share.min() > 0.02
    borders = [share[0].mean(), share[-1].mean(), share[:, 0].mean(), share[:, -1].mean()]
    assert max(borders) - min(borders) < 0.03
    for flipped in (share[::-1], share[:, ::-1], share.T):
        assert np.abs(share - flipped).mean() < 0.02


def test_the_largest_block_is_limited():
    """Blocks of one patch mask all patches equally often, the corners too."""
    share = many_masks(BlockMask((14, 14), 75, 1, 1), 100).mean(0)
    assert share.min() > 0.2
    assert share.max() < 0.56


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        (224, 16, (75, 16)),
        (224, 8, (300, 64)),
        (384, 16, (220, 47)),
        ((224, 448), 16, (150, 32)),
        (32, 8, (6, 1)),
    ],
)
def test_other_grids_scale_the_counts(size, patch, expected):
    config = get_config(opts=["DATA.IMAGE_SIZE", size, "MODEL.PATCH_SIZE", patch, "MASK.RULE", "exact"])
    generator = build_mask_generator(config)
    assert (generator.num_patches, generator.min_block) == expected
    assert generator(np.random.default_rng(0)).sum() == expected[0]


def test_keys_set_the_counts():
    keys = {"MASK.NUM_PATCHES": 40, "MASK.MIN_BLOCK": 5, "MASK.MAX_BLOCK": 20}
    generator = build_mask_generator(get_config(opts=[part for pair in keys.items() for part in pair]))
    assert generator == BlockMask((14, 14), 40, 5, 20)
    assert isinstance(build_mask_generator(get_config(opts=["MASK.RULE", "random"])), RandomMask)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MASK.NUM_PATCHES", 196], "MASK.NUM_PATCHES = 196.*has 196; some must stay visible"),
        (["DATA.IMAGE_SIZE", [16, 224]], "no block fits in the grid of 1 x 14"),
        (["MASK.MIN_BLOCK", 80], "MASK.MIN_BLOCK = 80 is more than"),
        (["MASK.MAX_BLOCK", 8], "MASK.MIN_BLOCK = 16 is more than MASK.MAX_BLOCK = 8"),
    ],
)
def test_impossible_masks_are_refused(opts, message):
    with pytest.raises(ValueError, match=message):
        build_mask_generator(get_config(opts=opts))
