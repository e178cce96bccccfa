"""Candidates are timed in alternation; only those with equal results get a ratio."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from beit.bench.timing import GEMM, Benchmark, Candidate, run_benchmark, verdict
from beit.bench.worker import Worker, WorkerFailedError

FAKES = "tests.bench.fake_candidates"


def run(candidates, folder, starts=0, **fields):
    benchmark = Benchmark("fakes", tuple(candidates), {"value": 0.0, "seconds": 0.02}, units=10, **fields)
    results = run_benchmark(
        benchmark,
        folder,
        interpreter_of=lambda candidate: None if candidate.needs else sys.executable,
        rounds=3,
        starts=starts,
        log=lambda text: None,
    )
    assert [result.name for result in results] == [candidate.name for candidate in candidates]
    return {result.name: result for result in results}


def test_rates_ratios_and_share_of_the_peak(tmp_path):
    found = run(
        [
            Candidate("fast", f"{FAKES}:add"),
            Candidate("slow", f"{FAKES}:add", {"seconds": 0.06}),
            Candidate(GEMM, f"{FAKES}:machine", {"seconds": 0.01}),
        ],
        tmp_path,
        multiply_adds=1e6,
    )
    assert found["fast"].rate[0] == pytest.approx(10 / 0.02, rel=0.2)
    assert found["fast"].ratio == (1.0, 1.0, 1.0)
    assert found["slow"].ratio[0] == pytest.approx(3.0, rel=0.2)
    assert found["slow"].ratio[1] <= found["slow"].ratio[0] <= found["slow"].ratio[2]
    assert found["fast"].share_of_peak == pytest.approx(0.5, rel=0.2)
    assert found[GEMM].rate[0] == pytest.approx(1e8, rel=0.2)
    assert found["slow"].difference == 0.0 and found["slow"].same_best == 1.0
    assert found["slow"].peak_bytes > 1e6 and found["slow"].versions["numpy"] == np.__version__


def test_the_start_of_a_process_until_its_first_result(tmp_path):
    candidates = [
        Candidate("fast", f"{FAKES}:add"),
        Candidate("slow", f"{FAKES}:add", {"seconds": 1.0}),
        Candidate(GEMM, f"{FAKES}:machine", {"seconds": 0.01}),
    ]
    found = run(candidates, tmp_path, starts=2, has_starts=True)
    fast, slow = found["fast"].start, found["slow"].start
    assert 0 < fast[1] <= fast[0] <= fast[2] and slow[0] > 1.0 and found[GEMM].start is None
    assert found["fast"].peak_bytes > 1e6
    assert run(candidates[:1], tmp_path, starts=2)["fast"].start is None


def test_a_process_that_fails_to_start_again_keeps_its_rates_and_those_of_the_others(tmp_path):
    candidates = [
        Candidate("first", f"{FAKES}:add"),
        Candidate("once", f"{FAKES}:once", {"file": str(tmp_path / "file")}),
    ]
    found = run(candidates, tmp_path, starts=2, has_starts=True)
    assert found["once"].rate and found["once"].ratio and found["once"].start is None
    assert found["once"].note.startswith("start 1 failed: FileExistsError")
    assert found["first"].start and not found["first"].note


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([1.1] * 6, "undecided: 6 rounds, 7 are needed"),
        ([1.1, 1.2, 1.01, 1.3, 1.2, 1.2, 1.2], "slower"),
        ([0.9, 0.8, 0.99, 0.7, 0.8, 0.8, 0.8], "faster"),
        (
            [1.1, 1.2, 0.99, 1.3, 1.2, 1.2, 1.2],
            "undecided: 0.99 to 1.30",
        ),  # 7 rounds: from the smallest to the largest
        ([0.5, *[1.1] * 7, 3.0], "slower"),  # 9 rounds: the smallest and the largest do not count
        ([0.5, 0.9, *[1.1] * 6, 3.0], "undecided: 0.90 to 1.10"),
        ([1.0] * 9, "undecided: 1.00 to 1.00"),
    ],
)
def test_a_verdict_needs_an_interval_without_1(ratios, expected):
    assert verdict(ratios) == expected


def test_different_results_get_no_ratio(tmp_path):
    found = run(
        [
            Candidate("first", f"{FAKES}:add"),
            Candidate("a little off", f"{FAKES}:add", {"value": 0.01}, tolerance=0.1),
            Candidate("wrong", f"{FAKES}:add", {"value": 1.0}, tolerance=0.1),
            Candidate("something else", f"{FAKES}:named", tolerance=0.1),
        ],
        tmp_path,
    )
    deviation = np.arange(6.0).std()
    assert found["a little off"].difference == pytest.approx(0.01 / deviation)
    assert found["a little off"].ratio is not None and not found["a little off"].note
    assert found["wrong"].ratio is None and found["wrong"].rate is not None
    assert found["wrong"].note == f"results differ by {1 / deviation:.2g}: no ratio"
    assert found["something else"].ratio is None and found["something else"].difference == float("inf")


def test_candidates_that_fail_are_reported(tmp_path):
    found = run(
        [
            Candidate("first", f"{FAKES}:add"),
            Candidate("absent", f"{FAKES}:add", needs=("torch", "timm")),
            Candidate("broken", f"{FAKES}:broken", {"value": "this"}),
            Candidate("dying", f"{FAKES}:dying"),
            Candidate("tiring", f"{FAKES}:tiring"),
        ],
        tmp_path,
    )
    assert found["absent"].note == "not installed: torch and timm"
    assert found["broken"].note == "failed: ValueError: cannot do this"
    assert found["dying"].note == "failed: ended with status 3: no output"
    assert found["tiring"].note.startswith("failed: StopIteration")
    assert found["first"].rate is not None
    assert found["broken"].as_dict()["rate"] is None


def test_the_environment_of_a_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("REMOVED", "1")
    worker = Worker(
        "os:getenv",
        {},
        tmp_path / "results.npz",
        environment={"REMOVED": None, "ADDED": "2"},
        log=tmp_path / "log.txt",
    )
    try:
        with pytest.raises(WorkerFailedError):
            worker.prepare()
        environment = Path(f"/proc/{worker._process.pid}/environ").read_bytes()
        names = {entry.split(b"=")[0] for entry in environment.split(b"\0")}
    finally:
        worker.close()
    assert b"KEPT" in names and b"ADDED" in names and b"REMOVED" not in names
