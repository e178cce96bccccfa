"""The candidates of each benchmark."""

from __future__ import annotations

import pytest

from beit.bench.benchmarks import MODES, Settings
from beit.bench.timing import GEMM


def benchmarks(mode, folder, **chosen):
    values = {
        "model": "beit_tiny_patch16_224",
        "batch": 2,
        "precision": "float32",
        "threads": 1,
        "device": "cpu",
    }
    settings = Settings(**(values | chosen), folder=folder, find=lambda needs: None)
    return {benchmark.title: benchmark for benchmark in MODES[mode](settings)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "precision", "own"),
    [
        ("cpu", "float32", ["beit", "beit, exported, Paddle"]),
        ("cpu", "bfloat16", ["beit", "beit, exported, Paddle, bfloat16"]),
        ("gpu", "float32", ["beit"]),
        ("gpu", "bfloat16", ["beit", "beit, bfloat16"]),
    ],
)
def test_candidates_of_inference(device, precision, own, tmp_path, monkeypatch):
    """Exported graphs run on CPUs, mixed precision on GPUs."""
    monkeypatch.setattr("beit.bench.benchmarks._has", lambda *modules: False)
    (benchmark,) = benchmarks("infer", tmp_path, device=device, precision=precision).values()
    names = [one.name for one in benchmark.candidates]
    assert [name for name in names if name.startswith("beit")] == own
    assert names[-1] == GEMM and any(name.startswith("timm") for name in names)
    assert benchmark.specification["device"] == device
    assert benchmark.multiply_adds == pytest.approx(2 * 1.26e9, rel=0.02)


def test_training_has_one_recipe_for_all_candidates(tmp_path):
    (benchmark,) = benchmarks("train", tmp_path).values()
    work = benchmark.specification
    assert benchmark.multiply_adds == pytest.approx(6 * 1.26e9, rel=0.02)
    assert {"options", "lr", "weight_decay", "layer_decay", "smoothing", "mean", "std"} <= work.keys()
    assert "MODEL.DROPPATH" in work["options"]


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"threads": 2}, "beit, 2 ranks"),
        ({"threads": 1}, "beit"),
        ({"threads": 2, "batch": 3}, "beit"),
        ({"threads": 2, "device": "gpu"}, "beit"),
    ],
)
def test_training_by_one_rank_per_core(changes, first, tmp_path):
    """Only on CPUs, where the batch can be divided."""
    (benchmark,) = benchmarks("train", tmp_path, **changes).values()
    assert benchmark.candidates[0].name == first


def test_a_folder_without_jpegs(tmp_path):
    with pytest.raises(ValueError, match="no JPEG files"):
        benchmarks("data", tmp_path, images=str(tmp_path))
