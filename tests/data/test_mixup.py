from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from beit.data.mixup import Mixup, build_mixup, soft_targets

SIDE = 16


def batch(size, seed=0):
    """Image k has the constant value k + 1 and label k, so a mixed image shows its parts."""
    values = np.arange(1, size + 1, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (size, 3, SIDE, SIDE)).copy()
    return images, np.arange(size), np.random.default_rng(seed)


def mix(size, seed=0, **options):
    images, labels, rng = batch(size, seed)
    options = {"smoothing": 0.0, **options}
    mixed, targets = Mixup(num_classes=10, **options)(paddle.to_tensor(images), paddle.to_tensor(labels), rng)
    return images, mixed.numpy(), targets.numpy()


def own_shares(targets):
    """Share of each image's own label; the middle image of an odd batch has all of it."""
    return np.diagonal(targets[:, : len(targets)])


def test_soft_targets():
    found = soft_targets(paddle.to_tensor([2, 0]), 4, 0.1).numpy()
    expected = [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]]
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert found.dtype == np.float32


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("seed", range(3))
def test_mixup_equals_the_formula(mode, seed):
    images, mixed, targets = mix(6, seed, mode=mode, cutmix_alpha=0.0)
    share = own_shares(targets)
    lam = share[:, None, None, None]
    np.testing.assert_allclose(mixed, images * lam + images[::-1] * (1 - lam), atol=1e-6)
    one_hot = np.eye(10)[:6]
    np.testing.assert_allclose(
        targets, one_hot * share[:, None] + one_hot[::-1] * (1 - share[:, None]), atol=1e-6
    )
    distinct = {"batch": 1, "pair": 3, "elem": 6}[mode]
    assert len(np.unique(share)) == distinct
    if mode == "pair":
        np.testing.assert_array_equal(share, share[::-1])


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("minmax", [None, (0.2, 0.8)])
def test_cutmix_pastes_one_box_and_weights_labels_by_its_area(mode, minmax):
    images, mixed, targets = mix(6, 2, mode=mode, mixup_alpha=0.0, cutmix_minmax=minmax)
    share = own_shares(targets)
    for k, image in enumerate(mixed):
        pasted = image[0] != images[k, 0]
        assert (image[:, pasted] == images[5 - k, 0, 0, 0]).all()
        rows, columns = np.flatnonzero(pasted.any(1)), np.flatnonzero(pasted.any(0))
        assert pasted.sum() == len(rows) * len(columns)
        assert share[k] == pytest.approx(1 - pasted.mean(), abs=1e-6)
        if minmax:
            assert 3 <= len(rows) < 12 and 3 <= len(columns) < 12


def test_smoothed_targets_are_mixed():
    images, labels, rng = batch(4)
    _, targets = Mixup(num_classes=10, smoothing=0.1)(paddle.to_tensor(images), paddle.to_tensor(labels), rng)
    np.testing.assert_allclose(targets.numpy().sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(targets.numpy()[:, 9], 0.01, atol=1e-6)


def test_lambda_statistics():
    """Beta(.8, .8) for mixup; 1 - Beta(1, 1) area for cutmix, more is kept because boxes are clipped at the border."""
    rng = np.random.default_rng(0)
    mixup = Mixup(num_classes=2)
    draws = [mixup._draw(224, 224, rng) for _ in range(4000)]
    cut = np.array([mix.is_cutmix for mix in draws])
    share = np.array([mix.share for mix in draws])
    assert cut.mean() == pytest.approx(0.5, abs=0.03)
    assert share[~cut].mean() == pytest.approx(0.5, abs=0.02)
    assert share[~cut].var() == pytest.approx(1 / (4 * (2 * 0.8 + 1)), abs=0.006)
    # E[overlap of a span s around a uniform center with the unit interval] = s - s^2 / 4, s^2 = u uniform
    side = np.sqrt(np.linspace(0, 1, 10001))
    assert share[cut].mean() == pytest.approx(1 - ((side - side**2 / 4) ** 2).mean(), abs=0.02)
    boxes = np.array([mix.box for mix in draws])[cut]
    assert (
        (boxes >= 0).all()
        and (boxes[:, 0] + boxes[:, 2] <= 224).all()
        and (boxes[:, 1] + boxes[:, 3] <= 224).all()
    )


def test_probabilities():
    rng = np.random.default_rng(0)
    often = [Mixup(num_classes=2, probability=0.3)._draw(32, 32, rng).share < 1 for _ in range(1000)]
    assert np.mean(often) == pytest.approx(0.3, abs=0.05)
    only_cutmix = Mixup(num_classes=2, switch_probability=1.0)
    assert all(only_cutmix._draw(32, 32, rng).is_cutmix for _ in range(20))
    only_mixup = Mixup(num_classes=2, switch_probability=0.0)
    assert not any(only_mixup._draw(32, 32, rng).is_cutmix for _ in range(20))


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("size", [1, 5])
def test_an_odd_batch_keeps_its_middle_image(mode, size):
    for seed in range(4):
        images, mixed, targets = mix(size, seed, mode=mode)
        np.testing.assert_allclose(mixed[size // 2], images[size // 2], atol=1e-6)
        np.testing.assert_allclose(targets.sum(1), 1, atol=1e-6)
        assert targets[size // 2, size // 2] == pytest.approx(1)


def test_same_generator_same_mix():
    np.testing.assert_array_equal(mix(4, 5, mode="elem")[1], mix(4, 5, mode="elem")[1])
    assert (mix(4, 5)[1] != mix(4, 6)[1]).any()


def test_nothing_to_mix_is_refused():
    with pytest.raises(ValueError, match="nothing to mix"):
        Mixup(num_classes=2, mixup_alpha=0.0, cutmix_alpha=0.0)


def config(**train):
    defaults = {
        "MIXUP_ALPHA": 0.8,
        "CUTMIX_ALPHA": 1.0,
        "CUTMIX_MINMAX": None,
        "MIXUP_PROB": 1.0,
        "MIXUP_SWITCH_PROB": 0.5,
        "MIXUP_MODE": "batch",
        "SMOOTHING": 0.1,
    }
    return SimpleNamespace(
        MODEL=SimpleNamespace(NUM_CLASSES=7), TRAIN=SimpleNamespace(**{**defaults, **train})
    )


def test_build_mixup_reads_every_key():
    settings = config(
        MIXUP_ALPHA=0.1,
        CUTMIX_ALPHA=0.2,
        CUTMIX_MINMAX=(0.3, 0.4),
        MIXUP_PROB=0.5,
        MIXUP_SWITCH_PROB=0.6,
        MIXUP_MODE="elem",
        SMOOTHING=0.7,
    )
    assert build_mixup(settings) == Mixup(
        num_classes=7,
        mixup_alpha=0.1,
        cutmix_alpha=0.2,
        cutmix_minmax=(0.3, 0.4),
        probability=0.5,
        switch_probability=0.6,
        mode="elem",
        smoothing=0.7,
    )


@pytest.mark.parametrize(
    ("train", "is_off"),
    [
        ({"MIXUP_ALPHA": 0.0, "CUTMIX_ALPHA": 0.0}, True),
        ({"MIXUP_PROB": 0.0}, True),
        ({"MIXUP_ALPHA": 0.0}, False),
        ({"MIXUP_ALPHA": 0.0, "CUTMIX_ALPHA": 0.0, "CUTMIX_MINMAX": (0.1, 0.2)}, False),
    ],
)
def test_build_mixup_off(train, is_off):
    assert (build_mixup(config(**train)) is None) == is_off
