"""Images and figures of tokens."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.tasks.previews import MASK_GRAY
from beit.tasks.token_figures import (
    MeanPatches,
    code_colors,
    draw_code_map,
    draw_code_patches,
    draw_codebook,
    draw_reconstructions,
)


def images(count=2, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_code_map_colors_each_patch():
    image, ids = images()[0], np.array([[3, 5], [5, 3]])
    figure = draw_code_map(image, ids)
    assert figure.shape == (8, 24, 3)
    np.testing.assert_array_equal(figure[:, :8], image)
    colors = code_colors(ids)
    np.testing.assert_array_equal(figure[:, 8:16], colors.repeat(4, 0).repeat(4, 1))
    blend = (image.astype(float) + colors.repeat(4, 0).repeat(4, 1)) / 2
    assert np.abs(figure[:, 16:] - blend).max() <= 1


def test_a_code_keeps_its_color():
    np.testing.assert_array_equal(code_colors(np.array([7, 9]))[0], code_colors(np.array([[7]]))[0, 0])
    assert len(np.unique(code_colors(np.arange(200)), axis=0)) > 150


def test_patches_of_a_code_are_shown_with_a_margin():
    originals, ids = images(), np.zeros((2, 4, 4), int)
    ids[1, 2, 1] = 6
    figure = draw_code_patches(originals, ids, 6, columns=3)
    assert figure.shape == (8, 24, 3)  # tiles of 3 x 3 patches of 2 pixels, and a gap of 2
    np.testing.assert_array_equal(figure[2 + 0 : 4, 2:4], originals[1, 4:6, 2:4])
    np.testing.assert_array_equal(figure[0, :6], originals[1, 2, 0:6])
    assert (figure[:, 8:] == 255).all()
    assert draw_code_patches(originals, ids, 0, count=5, columns=3).shape == (16, 24, 3)
    with pytest.raises(ValueError, match="has code 9; frequent ones are"):
        draw_code_patches(originals, ids, 9)


def test_codebook_shows_the_used_share():
    def bars(counts):
        figure = draw_codebook(np.array(counts))
        assert (figure.shape, figure.dtype) == ((320, 640, 3), np.uint8)
        columns = (figure == (31, 119, 180)).all(-1).any(0)  # matplotlib's first color
        return np.flatnonzero(columns)

    full, half = bars([100, 10, 5, 1]), bars([0, 100, 0, 10])
    assert (np.diff(full) == 1).all() and (np.diff(half) == 1).all()
    assert half[0] == full[0]  # the most frequent codes are at the left
    assert len(half) == pytest.approx(len(full) / 2, abs=2)
    assert len(bars([0, 0, 0, 0])) == 0


def test_reconstructions_are_below_their_originals():
    rebuilt = np.linspace(-0.5, 1.5, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    figure = draw_reconstructions(images(), rebuilt)
    assert figure.shape == (8, 8, 3)
    np.testing.assert_array_equal(figure[4:, :4], np.rint(255 * rebuilt[0].clip(0, 1)).transpose(1, 2, 0))


def test_mean_patches_draw_each_code_as_the_mean_of_its_patches():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 12, 3)).astype(np.uint8)
    ids = rng.integers(0, 4, (6, 2, 4))  # patches of 4 x 3 pixels
    decoder = MeanPatches(5)
    decoder.add(images[:2], ids[:2])
    decoder.add(images[2:], ids[2:])
    decoded = decoder.decode(paddle.to_tensor(ids).flatten(1), (2, 4)).numpy().transpose(0, 2, 3, 1)
    patches = [
        images[b, 4 * row : 4 * row + 4, 3 * column : 3 * column + 3]
        for b, row, column in np.argwhere(ids == 2)
    ]
    for b, row, column in np.argwhere(ids == 2):
        drawn = decoded[b, 4 * row : 4 * row + 4, 3 * column : 3 * column + 3]
        np.testing.assert_allclose(255 * drawn, np.mean(patches, axis=0), atol=1e-3)
    unused = decoder.decode(paddle.to_tensor([[4, 4]]), (1, 2)).numpy()
    assert unused.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(unused, MASK_GRAY / 255)
