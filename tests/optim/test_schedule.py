"""Schedules compared with the official NumPy array and the values of published recipes."""

from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest

from beit.config import get_config
from beit.optim import schedule
from beit.optim.schedule import SCHEDULE_KEYS, cosine, make_schedules, scaled_lr, warmup_cosine, warmup_poly


def official_array(peak, end, start, warmup, total):
    """The schedule as an array, as unilm/beit/utils.py `cosine_scheduler` computes it."""
    decay = total - warmup
    tail = [end + 0.5 * (peak - end) * (1 + math.cos(math.pi * i / decay)) for i in range(decay)]
    return np.concatenate((np.linspace(start, peak, warmup), np.array(tail)))


@pytest.mark.parametrize(
    ("peak", "end", "start", "warmup", "total"),
    [
        (4e-3, 1e-6, 0.0, 20, 100),
        (2e-5, 1e-6, 0.0, 250, 1500),
        (1.5e-3, 1e-5, 1e-6, 7, 31),
        (5e-4, 1e-6, 0.0, 0, 12),
        (5e-4, 1e-6, 0.0, 1, 12),
        (5e-4, 1e-6, 0.0, 2, 3),
        (5e-4, 5e-4, 5e-4, 3, 9),
    ],
)
def test_warmup_cosine_equals_the_official_array(peak, end, start, warmup, total):
    values = [
        warmup_cosine(i, peak=peak, end=end, start=start, warmup_steps=warmup, total_steps=total)
        for i in range(total)
    ]
    np.testing.assert_array_equal(values, official_array(peak, end, start, warmup, total))


def test_the_peak_occurs_twice_and_the_last_step_is_above_the_end():
    plan = {"peak": 1.0, "end": 0.25, "warmup_steps": 5, "total_steps": 15}
    values = [warmup_cosine(i, **plan) for i in range(15)]
    assert values[:6] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    assert values[14] == pytest.approx(0.25 + 0.75 * math.sin(math.pi / 20) ** 2, rel=1e-12)
    assert warmup_cosine(15, **plan) == warmup_cosine(99, **plan) == 0.25


def test_weight_decay_cosine():
    values = [cosine(i, 0.05, 0.5, 8) for i in range(9)]
    np.testing.assert_allclose(values[:8], official_array(0.05, 0.5, 0.0, 0, 8), rtol=0, atol=0)
    assert values[0] == pytest.approx(0.05)
    assert values[4] == pytest.approx(0.275)
    assert values[8] == 0.5
    assert {cosine(i, 0.05, 0.05, 8) for i in range(9)} == {0.05}


def test_warmup_poly_is_the_segmentation_schedule():
    """160k steps with a warm-up of 1500; values of mmcv's rule `lr * (1 - (1 - i / w) * (1 - ratio))`."""
    plan = {"peak": 3e-5, "end": 0.0, "start": 3e-11, "warmup_steps": 1500, "total_steps": 160_000}
    assert warmup_poly(0, **plan) == pytest.approx(3e-11, rel=1e-9)
    assert warmup_poly(750, **plan) == pytest.approx(3e-5 * (1 - 750 / 160_000) * 0.5000005, rel=1e-12)
    assert warmup_poly(1500, **plan) == pytest.approx(3e-5 * (1 - 1500 / 160_000), rel=1e-12)
    assert warmup_poly(80_000, **plan) == pytest.approx(1.5e-5, rel=1e-12)
    assert warmup_poly(160_000, **plan) == 0.0
    largest = max(warmup_poly(i, **plan) for i in range(1400, 1600))
    assert largest == warmup_poly(1500, **plan) < 3e-5


def test_warmup_poly_ends_at_its_end():
    plan = {"peak": 1.0, "end": 0.2, "warmup_steps": 0, "total_steps": 10}
    assert warmup_poly(5, **plan) == pytest.approx(0.6)
    assert warmup_poly(10, **plan) == 0.2


@pytest.mark.parametrize("kind", ["cosine", "poly"])
def test_the_offset_reads_the_schedules_ahead(kind):
    opts = ["TRAIN.SCHEDULE", kind, "TRAIN.NUM_EPOCHS", 10, "TRAIN.WARMUP_EPOCHS", 2, "TRAIN.BASE_LR", 1.0]
    opts += ["TRAIN.WEIGHT_DECAY_END", 0.5]
    plain, half, whole = (
        make_schedules(get_config(opts=[*opts, "TRAIN.SCHEDULE_OFFSET", offset]), 4, 8)
        for offset in (0, 0.5, 1)
    )
    assert [whole(step) for step in range(39)] == [plain(step + 1) for step in range(39)]
    for step in range(39):
        for before, at, after in zip(plain(step), half(step), plain(step + 1), strict=True):
            assert min(before, after) <= at <= max(before, after)
    assert max(half(step)[0] for step in range(40)) <= 1.0


def test_the_keys_of_the_schedules_are_complete():
    """A resume compares these keys, so a key that is read and not listed would change the rate without a word."""
    read = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(schedule)))
        if isinstance(node, ast.Attribute) and node.attr.isupper() and node.attr != "TRAIN"
    }
    assert read == set(SCHEDULE_KEYS)


def test_scaled_lr():
    assert scaled_lr(4e-3, 1024, 1024) == 4e-3
    assert scaled_lr(1.5e-3, 2048, 512) == 1.5e-3 / 4


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: cosine(-1, 1.0, 0.0, 10), "counts steps from 0; got step=-1"),
        (lambda: cosine(0, 1.0, 0.0, -1), "total_steps=-1"),
        (
            lambda: warmup_cosine(0, peak=1.0, end=0.0, warmup_steps=11, total_steps=10),
            "longer than the whole run",
        ),
        (lambda: warmup_poly(0, peak=1.0, end=0.0, warmup_steps=11, total_steps=10), r"warm-up \(11 steps\)"),
        (lambda: warmup_poly(-2, peak=1.0, end=0.0, warmup_steps=1, total_steps=10), "step=-2"),
        (lambda: scaled_lr(1e-3, 0, 8), "reference_batch=0"),
        (lambda: scaled_lr(1e-3, 8, 0), "total_batch=0"),
    ],
)
def test_invalid_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
