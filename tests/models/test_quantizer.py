"""The codebook of VQ-KD: initial k-means, moving average, straight-through gradient, usage, reseeding, ranks."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.models.quantizer import NormEmaQuantizer, kmeans
from beit.parallel.launch import launch
from tests.models import quantizer_ranks
from tests.models.vqkd_numpy import unit


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def filled(codes, **options):
    """A quantizer in training mode with a given codebook."""
    quantizer = NormEmaQuantizer(*codes.shape, **options)
    quantizer.embedding.weight.set_value(codes)
    quantizer.embedding.initted.set_value(np.ones(1, np.float32))
    quantizer.train()
    return quantizer


def step_numpy(codes, usage, features, decay=0.99):
    """One update of the codebook, computed code by code."""
    z = unit(features.reshape(-1, features.shape[-1]).astype(np.float64))
    ids = ((z[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
    new, bins = codes.copy(), np.bincount(ids, minlength=len(codes))
    for k in range(len(codes)):
        target = unit(z[ids == k].sum(0) / bins[k]) if bins[k] else codes[k]
        new[k] = unit(decay * codes[k] + (1 - decay) * target)
    return new, decay * usage + (1 - decay) * bins, ids


@pytest.mark.parametrize("decay", [0.99, 0.5])
def test_moving_average_equals_numpy(decay):
    codes = unit(draw(0, 9, 4))
    quantizer = filled(codes, decay=decay)
    expected, usage = codes.astype(np.float64), np.zeros(9)
    for step in range(3):
        features = 3.0 * draw(step + 1, 2, 5, 4)
        out = quantizer(paddle.to_tensor(features))
        before = expected
        expected, usage, ids = step_numpy(expected, usage, features, decay)
        np.testing.assert_array_equal(out["ids"].numpy().ravel(), ids)
        np.testing.assert_allclose(out["codes"].numpy().reshape(-1, 4), before[ids], atol=1e-6)
        np.testing.assert_allclose(quantizer.embedding.weight.numpy(), expected, atol=1e-6)
        np.testing.assert_allclose(quantizer.cluster_size.numpy(), usage, atol=1e-6)
        distance = ((before[ids] - unit(features.reshape(-1, 4))) ** 2).mean()
        np.testing.assert_allclose(float(out["loss"]), distance, rtol=1e-5)
    assert len(np.unique(ids)) < 9  # an unused code must not change


def test_gradient_passes_straight_through():
    codes, features = unit(draw(0, 6, 3)), draw(1, 1, 4, 3)
    quantizer = filled(codes, commitment=0.5)
    quantizer.to(dtype="float64")
    x, out_weight = paddle.to_tensor(features.astype("float64"), stop_gradient=False), draw(2, 1, 4, 3)
    out = quantizer(x)
    ((out["codes"] * paddle.to_tensor(out_weight.astype("float64"))).sum() + out["loss"]).backward()
    chosen = codes[out["ids"].numpy()].astype(np.float64)

    def value(features):
        z = unit(features)
        return (z * out_weight).sum() + 0.5 * ((chosen - z) ** 2).mean()

    for entry in np.ndindex(features.shape):
        shift = np.zeros(features.shape)
        shift[entry] = 1e-6
        slope = (value(features + shift) - value(features - shift)) / 2e-6
        np.testing.assert_allclose(x.grad.numpy()[entry], slope, atol=1e-8)


def test_evaluation_changes_nothing():
    quantizer = filled(unit(draw(0, 6, 3)))
    quantizer.eval()
    before = {name: tensor.numpy() for name, tensor in quantizer.state_dict().items()}
    quantizer(paddle.to_tensor(draw(1, 2, 4, 3)))
    for name, tensor in quantizer.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


def test_codes_need_not_have_length_one():
    codes = np.array([[0.1, 0.0], [1.5, 0.0], [0.0, 1.0]], np.float32)
    z = unit(draw(0, 50, 2))
    expected = ((z[:, None] - codes[None]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(filled(codes).nearest(paddle.to_tensor(z)).numpy(), expected)
    assert len(np.unique(expected)) == 3


def kmeans_numpy(samples, start):
    means = start
    for _ in range(10):
        similarity = samples @ means.T
        second, first = np.sort(similarity, axis=1)[:, -2:].T
        # No assignment may depend on rounding: either the nearest mean is clear, or equal means are equal bit for bit.
        assert ((first == second) | (first - second > 1e-3)).all()
        ids = similarity.argmax(1)
        bins = np.bincount(ids, minlength=len(means))
        means = np.stack([unit(samples[ids == k].sum(0)) if bins[k] else means[k] for k in range(len(means))])
    return means, bins


def random_samples():
    return unit(draw(0, 30, 4))


def axis_samples():
    """Unit vectors along positive and negative axes: sums and products with means are exact in any order."""
    rng = np.random.default_rng(1)
    return (np.eye(16)[rng.integers(0, 16, 30)] * rng.choice([-1, 1], (30, 1))).astype("float32")


@pytest.mark.parametrize(
    ("draw_samples", "num_codes"), [(random_samples, 7), (axis_samples, 7), (axis_samples, 40)]
)
def test_kmeans_equals_numpy(draw_samples, num_codes):
    """With more codes than samples some initial means are equal; the first of them is assigned the samples."""
    samples = draw_samples()
    means, counts = kmeans(paddle.to_tensor(samples), num_codes, np.random.default_rng(5))
    start = samples[np.random.default_rng(5).choice(30, num_codes, replace=num_codes > 30)].astype(np.float64)
    expected, bins = kmeans_numpy(samples.astype(np.float64), start)
    if num_codes <= 30:
        np.testing.assert_allclose(means.numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(counts.numpy(), bins)
    # With more codes than samples several codes are equal up to rounding, which decides between them.
    found, wanted = (codes[(samples @ codes.T).argmax(1)] for codes in (means.numpy(), expected))
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(np.sort(counts.numpy()), np.sort(bins))


def test_the_first_training_batch_initializes_the_codebook():
    quantizer = NormEmaQuantizer(4, 3)
    quantizer.train()
    features = paddle.to_tensor(draw(0, 3, 8, 3))
    with pytest.raises(ValueError, match="rng"):
        quantizer(features)
    quantizer(features, np.random.default_rng(0))
    assert float(quantizer.embedding.initted) == 1
    assert float(quantizer.embedding.cluster_size.sum()) == 24
    np.testing.assert_allclose(np.linalg.norm(quantizer.embedding.weight.numpy(), axis=1), 1, rtol=1e-6)
    started = quantizer.embedding.weight.numpy()
    quantizer(features, np.random.default_rng(1))  # not initialized again
    assert np.abs(quantizer.embedding.weight.numpy() - started).max() < 0.05


def test_an_empty_codebook_is_refused_in_evaluation():
    quantizer = NormEmaQuantizer(4, 3)
    quantizer.eval()
    with pytest.raises(ValueError, match="never initialized"):
        quantizer(paddle.to_tensor(draw(0, 1, 2, 3)))
    random = NormEmaQuantizer(4, 3, kmeans_init=False)
    random.eval()
    assert random(paddle.to_tensor(draw(0, 1, 2, 3)))["ids"].shape == [1, 2]


def test_usage_of_the_recent_steps():
    codes = np.eye(4, dtype="float32")
    quantizer = filled(codes, decay=0.9, dead_after=3)
    for _ in range(4):
        quantizer(paddle.to_tensor(codes[None, [0, 0, 0, 1]]))
    found = {name: float(value) for name, value in quantizer.usage().items()}
    assert found["usage"] == 0.5
    assert found["dead_codes"] == 2
    np.testing.assert_allclose(
        found["perplexity"], np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))), rtol=1e-5
    )
    # One use keeps a code from being dead for `dead_after` steps.
    quantizer(paddle.to_tensor(codes[None, [2]]))
    for step in range(3):
        assert bool(quantizer.dead()[2]) is False, step
        quantizer(paddle.to_tensor(codes[None, [0]]))
    assert bool(quantizer.dead()[2]) is True


def test_dead_codes_are_replaced_by_features():
    features = draw(0, 1, 6, 4)
    quantizer = filled(unit(draw(1, 20, 4)), reseed_dead_codes=True)
    before = quantizer.embedding.weight.numpy()
    ids = quantizer(paddle.to_tensor(features), np.random.default_rng(0))["ids"].numpy()
    after = quantizer.embedding.weight.numpy()
    unused = np.setdiff1d(np.arange(20), ids)
    assert len(unused) >= 14
    nearest = (after[unused] @ unit(features[0]).T).max(1)
    np.testing.assert_allclose(nearest, 1, atol=1e-6)
    assert np.abs(after[np.unique(ids)] - before[np.unique(ids)]).max() < 0.05
    assert not quantizer.dead().numpy().any()  # they count as used once


def test_half_precision_features_are_compared_in_float32():
    quantizer = filled(unit(draw(0, 6, 3)))
    out = quantizer(paddle.to_tensor(draw(1, 1, 4, 3)).astype("bfloat16"))
    assert out["codes"].dtype == out["loss"].dtype == paddle.float32


def test_two_ranks_compute_the_same_codebook_as_one(tmp_path):
    status = launch(quantizer_ranks.worker, (str(tmp_path),), ranks=2, device="cpu", grace=5.0)
    assert status == 0
    ranks = [np.load(tmp_path / f"{rank}.npz") for rank in (0, 1)]
    for step, state in enumerate(quantizer_ranks.train(0, 1)):
        for name, array in state.items():
            for rank in ranks:
                np.testing.assert_array_equal(rank[f"{step}.{name}"], array, err_msg=f"{step} {name}")
