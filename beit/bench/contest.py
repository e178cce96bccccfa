"""Several ways to do the same work, in turn, round after round; what they cost, and whether they did the same."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from beit.bench.worker import Worker, WorkerFailedError

GEMM = "matrix product"
"""Name of the contender that measures the machine: its steps are multiply-adds, not images."""
_STEP_SECONDS = 0.5  # short steps are repeated, or the clock would be measured
_MAX_REPEATS = 1000


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Args:
        name: in the table.
        function: `MODULE:FUNCTION` for `Worker`.
        options: added to the specification of the work.
        environment: as of `Worker`.
        needs: modules its interpreter must have.
        tolerance: largest difference from the first contender's results, as a share of their standard deviation.
    """

    name: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str | None] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    tolerance: float = 1e-3


@dataclass(frozen=True)
class Standing:
    """What a contender did. `note` says why there are no numbers, or no ratio.

    `rate` is units per second (median and quartiles over the rounds); `ratio` the first contender's rate over this one's,
    the median of the rounds' ratios with quartiles; `share_of_peak` of the machine's float32 matrix product;
    `difference` of its results from the first one's, over their standard deviation; `same_best` the share of rows with
    the same largest entry.
    """

    name: str
    rate: tuple[float, float, float] | None = None
    ratio: tuple[float, float, float] | None = None
    share_of_peak: float | None = None
    peak_bytes: int | None = None
    difference: float | None = None
    same_best: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(eq=False)
class _Entry:
    contender: Contender
    worker: Worker
    results: dict[str, np.ndarray]
    versions: dict[str, str]
    repeats: int = 1
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def take_turn(self, repeats: int) -> float:
        """Seconds of a step."""
        seconds, self.peak_bytes = self.worker.time(repeats)
        return seconds


def run_contest(
    contenders: Sequence[Contender],
    specification: Mapping[str, Any],
    folder: Path,
    *,
    interpreter_of: Callable[[Contender], str | None],
    rounds: int,
    units: float,
    multiply_adds: float | None = None,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> list[Standing]:
    """Do the work with each contender in turn, `rounds` times, the order reversed each time.

    Args:
        contenders: the first is the one others are compared with; one called `GEMM` gives the peak.
        specification: of the work, the same for all.
        folder: for results and logs.
        interpreter_of: the interpreter that has what a contender needs; None where there is none.
        rounds: counted ones; one more comes first.
        units: images, or whatever is counted, of a step.
        multiply_adds: of a step, for the share of the peak.
        say: takes progress.
    """
    standings: dict[str, Standing] = {}
    entries: list[_Entry] = []
    with ExitStack() as stack:
        for number, contender in enumerate(contenders):
            interpreter = interpreter_of(contender)
            if interpreter is None:
                missing = " and ".join(contender.needs)
                standings[contender.name] = Standing(contender.name, note=f"not installed: {missing}")
                continue
            worker = Worker(
                contender.function,
                {**specification, **contender.options},
                folder / f"results-{number}.npz",
                interpreter=interpreter,
                environment=contender.environment,
                log=folder / f"log-{number}.txt",
            )
            stack.callback(worker.close)
            say(f"  {contender.name}: preparing")
            begin = time.perf_counter()
            try:
                results, versions = worker.prepare()
            except WorkerFailedError as error:
                standings[contender.name] = Standing(contender.name, note=f"failed: {error}")
                say(f"  {contender.name}: {standings[contender.name].note}")
                continue
            entries.append(_Entry(contender, worker, results, versions))
            say(f"  {contender.name}: ready after {time.perf_counter() - begin:.1f} s")
        for entry, reason in _time_in_turn(entries, rounds, say):
            entries.remove(entry)
            standings[entry.contender.name] = Standing(entry.contender.name, note=f"failed: {reason}")
    for standing in _judge(entries, units, multiply_adds):
        standings[standing.name] = standing
    return [standings[contender.name] for contender in contenders]


def _time_in_turn(
    entries: Sequence[_Entry], rounds: int, say: Callable[[str], None]
) -> list[tuple[_Entry, str]]:
    """Fill in `seconds`; those that failed on the way, with the reason."""
    failed: list[tuple[_Entry, str]] = []
    for number in range(-1, rounds + 1):
        running = [entry for entry in entries if entry not in [one for one, _ in failed]]
        for entry in running if number % 2 else reversed(running):
            try:
                seconds = entry.take_turn(entry.repeats)
            except WorkerFailedError as error:
                failed.append((entry, str(error)))
                continue
            if number < 0:
                entry.repeats = min(_MAX_REPEATS, max(1, math.ceil(_STEP_SECONDS / max(seconds, 1e-9))))
            elif number:
                entry.seconds.append(seconds)
        if number > 0:
            say(f"  round {number}/{rounds}")
    return failed


def _judge(entries: Sequence[_Entry], units: float, multiply_adds: float | None) -> list[Standing]:
    by_name = {entry.contender.name: entry for entry in entries}
    machine = by_name.pop(GEMM, None)
    peak = None
    if machine is not None:
        peak = float(machine.results["multiply_adds"]) / min(machine.seconds)
    ranked = list(by_name.values())
    standings = []
    for entry in ranked:
        rates = [units / seconds for seconds in entry.seconds]
        difference, same_best = _difference(ranked[0].results, entry.results)
        agrees = difference <= entry.contender.tolerance
        paired = [other / own for other, own in zip(entry.seconds, ranked[0].seconds, strict=True)]
        share = None
        if peak is not None and multiply_adds is not None:
            share = multiply_adds / float(np.median(entry.seconds)) / peak
        standings.append(
            Standing(
                entry.contender.name,
                rate=_quartiles(rates),
                ratio=_quartiles(paired) if agrees else None,
                share_of_peak=share,
                peak_bytes=entry.peak_bytes,
                difference=difference,
                same_best=same_best,
                versions=entry.versions,
                note="" if agrees else f"results differ by {difference:.2g}: no ratio",
            )
        )
    if machine is not None and peak is not None:
        rates = [float(machine.results["multiply_adds"]) / seconds for seconds in machine.seconds]
        standings.append(Standing(GEMM, rate=_quartiles(rates), versions=machine.versions, share_of_peak=1.0))
    return standings


def _quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(middle), float(low), float(high)


def _difference(
    expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]
) -> tuple[float, float | None]:
    """Largest difference over the standard deviation of what is expected; share of rows with the same best entry."""
    if expected.keys() != found.keys() or any(expected[name].shape != found[name].shape for name in expected):
        return math.inf, None
    worst = 0.0
    for name, values in expected.items():
        wanted, got = np.asarray(values, np.float64), np.asarray(found[name], np.float64)
        distance = float(np.abs(wanted - got).max())
        worst = max(worst, distance / (float(wanted.std()) or 1.0) if math.isfinite(distance) else math.inf)
    first = next(iter(expected))
    if expected[first].ndim != 2:
        return worst, None
    return worst, float((expected[first].argmax(1) == found[first].argmax(1)).mean())
