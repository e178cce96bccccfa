"""Resized position tables and patch embeddings against SciPy's spline and direct definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import CubicSpline, RectBivariateSpline, RegularGridInterpolator

from beit import positions
from tests.checkpoint import publishers

HEADS = 2


def offsets_by_hand(source, target):
    """unilm/beit/run_class_finetuning.py L367-392: bisect the ratio, then sum its powers."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if sum(q**k for k in range(source // 2)) > target // 2 else (q, high)
    positive = [sum(q**k for k in range(i + 1)) for i in range(source // 2)]
    return np.array([-x for x in reversed(positive)] + [0.0] + positive), q


def reference(table, source, target, evaluate):
    """Offsets of a square grid by `evaluate(coordinates, image, points)`, then the three class rows."""
    s, t = 2 * source - 1, 2 * target - 1
    coordinates, _ = offsets_by_hand(s, t)
    points = np.clip(np.arange(-(t // 2), t // 2 + 1), coordinates[0], coordinates[-1])
    images = [
        evaluate(coordinates, table[:-3, h].reshape(s, s), points).ravel() for h in range(table.shape[1])
    ]
    return np.concatenate([np.stack(images, axis=1), table[-3:]])


def spline(coordinates, image, points):
    return RectBivariateSpline(coordinates, coordinates, image, kx=3, ky=3, s=0)(points, points)


def linear(coordinates, image, points):
    grid = np.stack(np.meshgrid(points, points, indexing="ij"), axis=-1)
    return RegularGridInterpolator((coordinates, coordinates), image)(grid)


@pytest.mark.parametrize(
    ("source", "target"), [(14, 24), (14, 32), (14, 40), (14, 16), (14, 20), (24, 14), (14, 10)]
)
def test_official_rule_against_scipy(source, target):
    table = np.random.default_rng(target).standard_normal((positions.num_table_rows((source, source)), HEADS))
    resized = positions.resize_relative_position_bias(table, (source,) * 2, (target,) * 2)
    assert np.abs(resized - reference(table, source, target, spline)).max() < 1e-6
    np.testing.assert_array_equal(resized[-3:], table[-3:])
    assert (
        positions.resize_relative_position_bias(table.astype(np.float32), (source,) * 2, (target,) * 2).dtype
        == np.float32
    )


@pytest.mark.parametrize(("source", "target"), [(14, 24), (24, 14)])
def test_linear_option_against_scipy(source, target):
    table = np.random.default_rng(0).standard_normal((positions.num_table_rows((source, source)), HEADS))
    resized = positions.resize_relative_position_bias(table, (source,) * 2, (target,) * 2, "linear")
    assert np.abs(resized - reference(table, source, target, linear)).max() < 1e-9


@pytest.mark.parametrize(
    ("pixels", "ratio"),
    [(384, 1.0903074), (512, 1.1349178), (640, 1.1685036), (320, 1.0609685), (256, 1.0234928)],
)
def test_ratios_of_the_official_loop(pixels, ratio):
    """Measured by running the official loop from 224."""
    assert positions.geometric_ratio(27, 2 * pixels // 16 - 1) == pytest.approx(ratio, abs=1e-7)
    assert positions.geometric_ratio(27, 19) == pytest.approx(1.0100009, abs=1e-7)
    assert positions.geometric_offsets(27, 47)[-1] == pytest.approx(22.99993, abs=1e-5)


def test_rectangular_target_is_one_axis_after_the_other():
    table = np.random.default_rng(1).standard_normal((positions.num_table_rows((6, 6)), 1))
    resized = positions.resize_relative_position_bias(table, (6, 6), (6, 9))
    assert resized.shape == (positions.num_table_rows((6, 9)), 1)
    image, wide = table[:-3].reshape(11, 11), resized[:-3].reshape(11, 17)
    coordinates, _ = offsets_by_hand(11, 17)
    points = np.clip(np.arange(-8, 9), coordinates[0], coordinates[-1])
    np.testing.assert_allclose(
        wide, CubicSpline(coordinates, image, axis=1, bc_type="not-a-knot")(points), atol=1e-9
    )
    back = positions.resize_relative_position_bias(resized, (6, 9), (9, 6))
    assert back.shape == (positions.num_table_rows((9, 6)), 1)


def test_smallest_grids():
    for side in (1, 2):
        table = np.arange(float(positions.num_table_rows((side, side))))[:, None]
        resized = positions.resize_relative_position_bias(table, (side,) * 2, (4, 4))
        assert resized.shape == (52, 1)
        assert np.isfinite(resized).all()
        assert resized[:-3].min() >= 0
        assert resized[:-3].max() <= table[:-3].max()
    # Three knots: the parabola through them.
    np.testing.assert_allclose(
        positions.spline_matrix(np.array([-2.0, 0, 2]), np.array([1.0])) @ [4.0, 0, 4], [1.0]
    )


def test_the_same_size_is_unchanged():
    table, pos_embed = np.ones((28, 1)), np.ones((1, 10, 2))
    assert positions.resize_relative_position_bias(table, (3, 3), (3, 3)) is table
    assert positions.resize_absolute_position(pos_embed, (3, 3), (3, 3)) is pos_embed
    weight = np.ones((2, 3, 4, 4))
    assert positions.resample_patch_embedding(weight, 4) is weight


def keys_kernel(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def bicubic_line(values, size):
    """torch's bicubic: a = -0.75, half-pixel centers, the border repeated."""
    out = []
    for i in range(size):
        center = (i + 0.5) * len(values) / size - 0.5
        base = int(np.floor(center))
        taps = [
            (min(max(base + k, 0), len(values) - 1), keys_kernel(center - base - k, -0.75))
            for k in (-1, 0, 1, 2)
        ]
        out.append(sum(values[j] * w for j, w in taps))
    return np.array(out)


@pytest.mark.parametrize("target", [(5, 9), (3, 2)])
def test_absolute_positions_are_bicubic_and_keep_the_class_row(target):
    pos_embed = np.random.default_rng(2).standard_normal((1, 17, 3))
    resized = positions.resize_absolute_position(pos_embed, (4, 4), target)
    image = pos_embed[0, 1:].reshape(4, 4, 3)
    image = np.apply_along_axis(bicubic_line, 0, image, target[0])
    image = np.apply_along_axis(bicubic_line, 1, image, target[1])
    np.testing.assert_allclose(resized[0, 1:], image.reshape(-1, 3), atol=1e-12)
    np.testing.assert_array_equal(resized[0, 0], pos_embed[0, 0])


def test_resized_patch_embedding_of_enlarged_patches():
    """FlexiViT: <resized patch, resampled kernel> = <patch, kernel> for every patch, when patches grow."""
    rng = np.random.default_rng(3)
    weight, patch = rng.standard_normal((2, 3, 4, 4)), rng.standard_normal((3, 4, 4))
    resampled = positions.resample_patch_embedding(weight, 7)
    matrix = positions.antialiased_bicubic_matrix(4, 7)
    enlarged = np.einsum("ij,cjk,lk->cil", matrix, patch, matrix)
    np.testing.assert_allclose(
        (weight * patch).sum((1, 2, 3)), (resampled * enlarged).sum((1, 2, 3)), atol=1e-9
    )
    assert positions.resample_patch_embedding(weight.astype(np.float32), 2).shape == (2, 3, 2, 2)


def test_antialiased_matrix_equals_that_of_pillow():
    from PIL import Image

    line = np.random.default_rng(4).standard_normal(16).astype(np.float32)
    for size in (7, 40):
        resized = np.asarray(Image.fromarray(line[None]).resize((size, 1), Image.Resampling.BICUBIC))[0]
        np.testing.assert_allclose(positions.antialiased_bicubic_matrix(16, size) @ line, resized, atol=1e-6)


def test_bilinear_matrix_equals_that_of_torch():
    """`torch.nn.functional.interpolate(x[None, None, :, None], size=(n, 1), mode="bilinear")`, torch 2.14."""
    line = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
    expected = {3: [2, 2, 6], 9: [1, 2, 11 / 3, 28 / 9, 2, 16 / 3, 23 / 3, 6, 5]}
    for size, values in expected.items():
        np.testing.assert_allclose(positions.bilinear_matrix(5, size) @ line, values, atol=1e-9)


def test_bilinear_tables_are_resized_as_images_of_equal_pixels():
    table = np.random.default_rng(5).standard_normal((5 * 7 + 3, HEADS)).astype(np.float32)
    resized = positions.resize_relative_position_bias(table, (3, 4), (5, 2), "bilinear")
    down, across = positions.bilinear_matrix(5, 9), positions.bilinear_matrix(7, 3)
    expected = np.einsum("ij,jkh,lk->ilh", down, table[:-3].reshape(5, 7, HEADS), across)
    np.testing.assert_allclose(resized[:-3].reshape(9, 3, HEADS), expected, atol=1e-6)
    np.testing.assert_array_equal(resized[-3:], table[-3:])


def test_errors():
    with pytest.raises(ValueError, match="of a 3 x 3 grid has 28 rows, got 27"):
        positions.resize_relative_position_bias(np.ones((27, 1)), (3, 3), (4, 4))
    with pytest.raises(ValueError, match="interpolation is 'cubic'; known: 'geometric', 'linear'"):
        positions.resize_relative_position_bias(np.ones((28, 1)), (3, 3), (4, 4), "cubic")
    with pytest.raises(ValueError, match="3 x 3 grid has 10 positions, got 9"):
        positions.resize_absolute_position(np.ones((1, 9, 2)), (3, 3), (4, 4))


def test_table_side():
    assert [positions.table_side(rows) for rows in (732, 2212, 3972, 6244, 28, 4)] == [14, 24, 32, 40, 3, 1]
    assert [positions.table_side(rows) for rows in (0, 3, 733, 19, (5 * 7) + 3)] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("side", [1, 3, 5])
def test_index_buffer_against_the_official_construction(side):
    np.testing.assert_array_equal(
        positions.relative_position_index((side, side)), publishers.index_buffer(side)
    )


def test_index_of_a_rectangular_grid():
    index = positions.relative_position_index((2, 3))
    rows = 3 * 5 + 3
    assert (index[0, 0], index[0, 4], index[4, 0]) == (rows - 1, rows - 3, rows - 2)
    # from row 1, column 2 to row 0, column 0: offsets +1 and +2
    assert index[1 + 5, 1 + 0] == (1 + 1) * 5 + (2 + 2)


def test_positions_side():
    assert [positions.positions_side(count) for count in (197, 577, 10, 2)] == [14, 24, 3, 1]
    assert [positions.positions_side(count) for count in (0, 1, 12, 201)] == [0, 0, 0, 0]
