"""Expected training speed: from published sizes, and its share in the table of `beit bench`."""

from __future__ import annotations

import pytest

from beit.bench import benchmarks
from beit.bench.expected import GPUS, block_traffic, expected_rate, find_gpu
from beit.bench.timing import Benchmark, Result
from beit.config import get_config
from beit.tools.bench import table

BASE = {"forward": 17.6e9, "parameters": 86_000_000, "batch": 128}


def test_traffic_and_rate_of_base_224():
    config = get_config("beit_base_patch16_224")
    # 72 values of 2 bytes for each of 197 tokens of width 768
    assert block_traffic(config) == 72 * 2 * 197 * 768
    seconds = 2 * 3 * 17.6e9 / (0.7 * 312e12) + 3 * 12 * 72 * 2 * 197 * 768 / (0.85 * 2.04e12)
    seconds += 28 * 86e6 / (0.85 * 2.04e12) / 128
    assert expected_rate(config, GPUS["A100"], **BASE) == pytest.approx(1 / seconds)
    rates = [expected_rate(config, gpu, **BASE) for gpu in GPUS.values()]
    assert rates == sorted(rates) and rates[2] < 4.8 / 2.04 * 1.5 * rates[0]


@pytest.mark.parametrize(
    ("changed", "keys"), [({"frozen": 26e9}, []), ({"batch": 8}, []), ({}, ["TRAIN.RECOMPUTE", True])]
)
def test_more_work_takes_more_time(changed, keys):
    plain = expected_rate(get_config("beit_base_patch16_224"), GPUS["H200"], **BASE)
    config = get_config("beit_base_patch16_224", keys)
    assert expected_rate(config, GPUS["H200"], **BASE | changed) < 0.95 * plain


def test_gpus_are_found_by_the_name_of_their_driver():
    assert find_gpu("NVIDIA A100-SXM4-80GB") == GPUS["A100"] and find_gpu("NVIDIA H200") == GPUS["H200"]
    assert find_gpu("NVIDIA GeForce RTX 4090") is None


def test_the_table_has_the_share_of_the_expected_rate(tmp_path, monkeypatch):
    settings = benchmarks.Settings(
        "beit_tiny_patch16_224", 64, "bfloat16", 1, "gpu", tmp_path, lambda needs: None
    )
    monkeypatch.setattr(benchmarks.paddle.device.cuda, "get_device_name", lambda: "NVIDIA H200")
    config = get_config("beit_tiny_patch16_224")
    expected = benchmarks._expected(config, settings)
    assert expected is not None and expected > 10_000
    shown = table(
        Benchmark("b", (), {}, units=1, expected=expected),
        [Result("beit", rate=(expected / 2, 1.0, 1.0))],
        (0.1, 0.2),
    )
    assert f"beit reaches 50 % of the {expected:.0f} images/s expected of this GPU" in shown
    assert benchmarks._expected(config, settings.__class__(**vars(settings) | {"device": "cpu"})) is None
