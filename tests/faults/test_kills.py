"""SIGKILL at random moments: the resumed run ends in the bytes of the uninterrupted run."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.harness import (
    Command,
    Row,
    different_states,
    kill,
    leftovers,
    ranks_of,
    start,
    step_of,
    succeed,
)
from tests.tiny import command, different_weights

KILLS = int(os.environ.get("BEIT_FAULT_KILLS", "20"))
KEYS = {"SAVE_STEPS": 1, "TRAIN__NUM_EPOCHS": 20, "TRAIN__MODEL_EMA": True, "RANK_GRACE": 1.0, "KEEP_LAST": 2}
# Of 20: 3 while it starts, 6 as soon as a half-written checkpoint is seen, the others between.
MOMENTS = ["start", "save", "run", "run", "save", "run"]


def strike(run: Command, moment: str, rng: np.random.Generator) -> None:
    """Wait, then kill the command, unless it has ended."""
    steps, pause = int(rng.integers(1, 10)), rng.uniform(0.0, 0.05)
    try:
        if moment == "start":
            time.sleep(rng.uniform(0.0, 3.0))
            return
        run.wait_for_step(steps)
        time.sleep(pause)
        if moment == "save":
            run.wait_for(lambda: any(run.output.glob(".latest*")), pause=0.0)
    except AssertionError:
        if run.process.poll() != 0:
            raise


@pytest.mark.parametrize("ranks", [1, 2])
def test_killed_at_random_moments(data: Path, tmp_path: Path, row: Row, ranks: int) -> None:
    row.fault = (
        f"kill -9 of {'the run' if ranks == 1 else 'one of two ranks'}, {KILLS} times at random moments"
    )
    row.expected = (
        "resumes each time; weights, average and optimizer state are byte-identical; no process survives"
    )
    script, extra = ("main_single_gpu.py", ()) if ranks == 1 else ("main_multi_gpu.py", ("-nprocs=2",))
    keys = KEYS | {"DATA__NUM_WORKERS": 2 - ranks, "DATA__BATCH_SIZE": 4 // ranks}
    succeed(command(script, data, tmp_path / "whole", *extra, **keys), tmp_path / "whole")
    broken = tmp_path / "broken"
    arguments = command(script, data, broken, "-resume=auto", *extra, **keys)
    rng = np.random.default_rng(ranks)
    hits, halves, resumed = {"start": 0, "save": 0, "run": 0}, 0, []
    for number in range(KILLS):
        moment = MOMENTS[number % len(MOMENTS)]
        run = start(arguments, broken)
        strike(run, moment, rng)
        if run.process.poll() == 0:
            break
        victims = ranks_of(run) if ranks == 2 else []
        kill(victims[int(rng.integers(len(victims)))] if victims else run.process.pid)
        begin = time.monotonic()
        assert run.end() != 0
        survivors = run.survivors()
        assert survivors == [], f"still alive after kill {number + 1}: {survivors}"
        resumed.append(time.monotonic() - begin)
        hits[moment] += 1
        halves += bool(leftovers(broken)) if broken.exists() else 0
        step = step_of(broken)  # compares the checksum
        assert step >= -1
    succeed(arguments, broken)
    assert sum(hits.values()) >= min(KILLS, 20) // 2, f"only {hits} before the run was over"
    assert different_weights(tmp_path / "whole", broken) == []
    assert different_states(tmp_path / "whole", broken) == []
    assert leftovers(broken) == []
    row.seen = (
        f"{sum(hits.values())} kills ({hits['start']} at start, {hits['save']} in a save, {hits['run']} between; "
        f"{halves} partial files), all bytes equal, all processes ended within {max(resumed):.1f} s"
    )


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_a_rank_crashes(data: Path, tmp_path: Path, row: Row, number: signal.Signals) -> None:
    row.fault, row.expected = (
        f"{number.name} in one of two ranks",
        "the job ends, the message names rank and signal",
    )
    run = start(
        command("main_multi_gpu.py", data, tmp_path, "-nprocs=2", TRAIN__NUM_EPOCHS=500, RANK_GRACE=1.0),
        tmp_path,
    )
    run.wait_for_step(3)
    kill(ranks_of(run)[1], number)
    begin = time.monotonic()
    run.wait_for_text("error: rank 1 of 2 was killed by " + number.name)
    row.seconds = time.monotonic() - begin
    assert run.end() == 128 + number
    assert run.survivors() == []
    row.seen = f"rank 1 of 2 was killed by {number.name}, status {128 + number}"


def test_the_launcher_is_killed(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "kill -9 of the process that launched two ranks, each with a data worker",
        "the ranks save, stop and leave no process; the next start resumes",
    )
    keys = {"TRAIN__NUM_EPOCHS": 500, "DATA__NUM_WORKERS": 1, "DATA__BATCH_SIZE": 2, "RANK_GRACE": 1.0}
    words = command("main_multi_gpu.py", data, tmp_path / "run", "-resume=auto", "-nprocs=2", **keys)
    run = start(words, tmp_path / "run")
    run.wait_for_step(3)
    run.process.kill()
    begin = time.monotonic()
    run.end()
    assert run.survivors(60) == []
    row.seconds = time.monotonic() - begin
    step = step_of(tmp_path / "run")
    assert step >= 3
    again = start(words, tmp_path / "run")
    again.wait_for_text(f"step {step + 1}/")  # printed after the line of metrics.jsonl
    row.seen = f"all processes ended, step {step} saved; the next start goes on from it"
    said = again.text()
    again.sweep()
    assert f"step {step + 1}/" in said and f"step {step}/" not in said, said[-1500:]
