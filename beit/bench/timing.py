"""Time several implementations of the same work in alternation, and compare their results."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beit.bench.worker import Worker, WorkerFailedError

GEMM = "matrix product"
"""Name of the candidate that measures the machine: its steps are multiply-adds, not images."""
MIN_ROUNDS = 7
"""Rounds without which there is no verdict; with fewer than six no interval of a median has a confidence of 95 %."""
_TAIL = 0.025
_STEP_SECONDS = 0.5  # shorter steps are repeated, so that the resolution of the clock does not matter
_MAX_REPEATS = 1000


@dataclass(frozen=True)
class Candidate:
    """One implementation of the work of a benchmark.

    Args:
        name: its row in the table.
        function: `MODULE:FUNCTION` for `Worker`.
        options: added to the specification of the work.
        environment: variables that are set for its process (None: removed), as in `Worker`.
        needs: modules that its interpreter must have.
        tolerance: largest allowed difference from the first candidate's results, over their standard deviation.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Benchmark:
    """Work and its candidates.

    Args:
        title: heading of the table.
        candidates: the others are compared with the first; one that is named `GEMM` gives the peak of the machine.
        specification: the work, the same for all candidates.
        units: number of `unit` in one step.
        unit: what the rate counts.
        multiply_adds: of one step, forward and backward; None where the share of the peak has no use.
        arithmetic: multiply-adds of one image by candidate, where the candidates do different work.
        expected: computed rate of the first candidate on this device (`beit.bench.expected`); None where there is none.
        has_starts: whether the time from the start of a process to its first result is measured.
    """

    title: str
    candidates: tuple[Candidate, ...]
    specification: Mapping[str, Any]
    units: float
    unit: str = "images"
    multiply_adds: float | None = None
    arithmetic: Mapping[str, float] = field(default_factory=dict)
    expected: float | None = None
    has_starts: bool = False


@dataclass(frozen=True)
class Result:
    """Measurements of one candidate.

    Args:
        name: of the candidate.
        rate: units per second; median, first and third quartile over the rounds.
        ratio: seconds of this candidate over those of the first; median and quartiles over the rounds.
        verdict: "slower" or "faster" than the first, or why neither can be said; empty for the first.
        share_of_peak: multiply-adds per second over those of the machine's float32 matrix product.
        start: seconds from the start of a process to its first result; median, first and third quartile. Files that the
            candidate keeps between processes, such as graphs, exist by then.
        peak_bytes: largest memory of such a process, or else of the one that was timed.
        difference: largest difference from the first candidate's results, over their standard deviation.
        same_best: share of rows with the same largest entry.
        versions: of its libraries.
        note: why there are no numbers, no ratio, or fewer starts.
    """

    name: str
    rate: tuple[float, float, float] | None = None
    ratio: tuple[float, float, float] | None = None
    verdict: str = ""
    share_of_peak: float | None = None
    start: tuple[float, float, float] | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    same_best: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All fields by name, for JSON."""
        return asdict(self)


@dataclass(eq=False)
class _Entry:
    """A candidate whose worker is ready."""

    candidate: Candidate
    worker: Worker
    results: dict[str, np.ndarray]
    versions: dict[str, str]
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)  # of a step, by round
    starts: list[float] = field(
        default_factory=list
    )  # seconds from the start of a process to its first result
    peak_bytes: int = 0
    start_failure: str = ""


def run_benchmark(
    benchmark: Benchmark,
    folder: Path,
    *,
    interpreter_of: Callable[[Candidate], str | None],
    rounds: int,
    starts: int = 0,
    log: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> list[Result]:
    """Time each candidate once per round, in reverse order in every second round; results in the order of the candidates.

    Args:
        benchmark: the work and its candidates.
        folder: for results and logs.
        interpreter_of: interpreter that has the modules a candidate needs; None where there is none.
        rounds: number of measured rounds; one more warms up.
        starts: number of further processes of each candidate whose start is timed, if the benchmark `has_starts`.
        log: called with lines of progress.
    """
    results: dict[str, Result] = {}
    entries: list[_Entry] = []

    def open_worker(number: int, candidate: Candidate, interpreter: str) -> Worker:
        return Worker(
            candidate.function,
            {**benchmark.specification, **candidate.options},
            folder / f"results-{number}.npz",
            interpreter=interpreter,
            environment=candidate.environment,
            log=folder / f"log-{number}.txt",
        )

    with ExitStack() as stack:
        for number, candidate in enumerate(benchmark.candidates):
            name = candidate.name
            interpreter = interpreter_of(candidate)
            if interpreter is None:
                results[name] = Result(name, note=f"not installed: {' and '.join(candidate.needs)}")
                continue
            worker = open_worker(number, candidate, interpreter)
            stack.callback(worker.close)
            log(f"  {name}: preparing")
            begin = time.perf_counter()
            try:
                entries.append(_Entry(candidate, worker, *worker.prepare()))
            except WorkerFailedError as error:
                results[name] = Result(name, note=f"failed: {error}")
                log(f"  {name}: {results[name].note}")
                continue
            log(f"  {name}: ready after {time.perf_counter() - begin:.1f} s")
        for entry, reason in _time_in_turn(entries, rounds, log):
            entries.remove(entry)
            results[entry.candidate.name] = Result(entry.candidate.name, note=f"failed: {reason}")
    for number in range(starts if benchmark.has_starts else 0):
        started = [entry for entry in entries if entry.candidate.name != GEMM and not entry.start_failure]
        for entry in started[:: -1 if number % 2 else 1]:
            interpreter = interpreter_of(entry.candidate)
            assert interpreter is not None  # it has run
            begin = time.perf_counter()
            with closing(open_worker(len(benchmark.candidates), entry.candidate, interpreter)) as worker:
                try:
                    worker.prepare()
                    seconds = time.perf_counter() - begin
                    entry.peak_bytes = worker.time(1)[1]
                except WorkerFailedError as error:
                    entry.start_failure = f"start {number + 1} failed: {error}"
                    log(f"  {entry.candidate.name}: {entry.start_failure}")
                    continue
                entry.starts.append(seconds)
        log(f"  start {number + 1}/{starts}")
    results |= {result.name: result for result in _compare(entries, benchmark)}
    return [results[candidate.name] for candidate in benchmark.candidates]


def _time_in_turn(
    entries: Sequence[_Entry], rounds: int, log: Callable[[str], None]
) -> list[tuple[_Entry, str]]:
    """Fill in the `seconds` of all entries; returns those that failed, with the reason."""
    failed: dict[_Entry, str] = {}
    for number in range(-1, rounds + 1):  # -1 finds the number of repeats, 0 warms up
        running = [entry for entry in entries if entry not in failed]
        for entry in running if number % 2 else reversed(running):
            try:
                seconds, entry.peak_bytes = entry.worker.time(entry.repeats)
            except WorkerFailedError as error:
                failed[entry] = str(error)
                continue
            if number < 0:
                entry.repeats = min(_MAX_REPEATS, max(1, math.ceil(_STEP_SECONDS / max(seconds, 1e-9))))
            elif number:
                entry.seconds.append(seconds)
        if number > 0:
            log(f"  round {number}/{rounds}")
    return list(failed.items())


def _compare(entries: Sequence[_Entry], benchmark: Benchmark) -> list[Result]:
    by_name = {entry.candidate.name: entry for entry in entries}
    machine = by_name.pop(GEMM, None)
    results, peak = [], None
    if machine is not None:
        work = float(machine.results["multiply_adds"])
        peak = work / min(machine.seconds)
        rate = _quartiles([work / seconds for seconds in machine.seconds])
        results.append(Result(GEMM, rate=rate, versions=machine.versions, share_of_peak=1.0))
    for entry in by_name.values():
        first = next(iter(by_name.values()))
        difference, same_best = _difference(first.results, entry.results)
        agrees = difference <= entry.candidate.tolerance
        ratios = [own / other for own, other in zip(entry.seconds, first.seconds, strict=True)]
        disagreement = "" if agrees else f"results differ by {difference:.2g}: no ratio"
        share = None
        if peak is not None and benchmark.multiply_adds is not None:
            share = benchmark.multiply_adds / float(np.median(entry.seconds)) / peak
        results.append(
            Result(
                entry.candidate.name,
                rate=_quartiles([benchmark.units / seconds for seconds in entry.seconds]),
                ratio=_quartiles(ratios) if agrees else None,
                verdict=verdict(ratios) if agrees and entry is not first else "",
                share_of_peak=share,
                start=_quartiles(entry.starts) if entry.starts else None,
                peak_bytes=entry.peak_bytes,
                difference=difference,
                same_best=same_best,
                versions=entry.versions,
                note="; ".join(filter(None, [disagreement, entry.start_failure])),
            )
        )
    return results


def verdict(ratios: Sequence[float]) -> str:
    """Whether a candidate is "slower" or "faster" than the first, or why the rounds do not tell.

    It is told where the 95 % confidence interval of the median ratio does not contain 1. The interval is that of the order
    statistics, which assumes nothing about the distribution: from the k-th smallest to the k-th largest value, with the
    largest k that leaves at most 2.5 % of a binomial distribution on each side.

    Args:
        ratios: seconds of the candidate over those of the first, one per round.
    """
    count = len(ratios)
    if count < MIN_ROUNDS:
        return f"undecided: {count} rounds, {MIN_ROUNDS} are needed"
    k, tail = 0, 0.5**count
    while tail <= _TAIL:
        k += 1
        tail += math.comb(count, k) * 0.5**count
    ordered = sorted(ratios)
    low, high = ordered[k - 1], ordered[count - k]
    if low > 1.0:
        return "slower"
    return "faster" if high < 1.0 else f"undecided: {low:.2f} to {high:.2f}"


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), float(low), float(high)


def _difference(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
) -> tuple[float, float | None]:
    """Largest difference over the standard deviation of `expected`, and the share of rows with the same largest entry.

    The share is None unless the first array is a matrix.
    """
    if expected.keys() != found.keys() or any(expected[name].shape != found[name].shape for name in expected):
        return math.inf, None
    largest = 0.0
    for name, values in expected.items():
        a, b = np.asarray(values, np.float64), np.asarray(found[name], np.float64)
        distance = float(np.abs(a - b).max())
        largest = max(largest, distance / (float(a.std()) or 1.0) if math.isfinite(distance) else math.inf)
    first = next(iter(expected))
    if expected[first].ndim != 2:
        return largest, None
    return largest, float((expected[first].argmax(1) == found[first].argmax(1)).mean())
