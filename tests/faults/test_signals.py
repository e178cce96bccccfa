"""Stop signals: the step is finished and saved, the exit status reports it, and the resumed run ends in the same bytes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from beit.parallel.signals import EXIT_STOPPED
from tests.faults.harness import (
    Row,
    copied,
    kill,
    leftovers,
    lines_of,
    make_hang,
    start,
    step_of,
    succeed,
)
from tests.tiny import command, different_weights

KEYS = {"TRAIN__NUM_EPOCHS": 6, "DATA__NUM_WORKERS": 1}


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    succeed(command("main_single_gpu.py", data, output, **KEYS), output)
    return output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_one_rank(data: Path, tmp_path: Path, whole: Path, row: Row, number: signal.Signals) -> None:
    row.fault = f"{number.name} to the run"
    row.expected = f"checkpoint of that step, status {EXIT_STOPPED}, resumed byte-identical"
    arguments = command("main_single_gpu.py", data, tmp_path / "run", "-resume=auto", **KEYS)
    run = start(arguments, tmp_path / "run")
    run.wait_for_step(30)
    begin = time.monotonic()
    kill(run.process.pid, number)
    assert run.end() == EXIT_STOPPED, run.text()[-1500:]
    row.seconds = time.monotonic() - begin
    step = step_of(tmp_path / "run")
    assert (
        f"stopped by {number.name} after step {step}; the state is saved, continue with -resume auto"
        in run.text()
    )
    assert "Traceback" not in run.text() and run.survivors() == []
    last_line = (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]
    assert f"the run ended: stopped by {number.name}" in last_line
    succeed(arguments, tmp_path / "run")
    assert different_weights(whole, tmp_path / "run") == []
    row.seen = f"stopped by {number.name} after step {step}, status {EXIT_STOPPED}, bytes equal"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_two_ranks_and_repeated_signals(data: Path, tmp_path: Path, row: Row, number: signal.Signals) -> None:
    row.fault = f"{number.name} to every process of a run of two ranks, 5 times in a row (as launchers and terminals do)"
    row.expected = f"one checkpoint, status {EXIT_STOPPED}, no traceback"
    run = start(
        command(
            "main_multi_gpu.py",
            data,
            tmp_path / "run",
            "-nprocs=2",
            TRAIN__NUM_EPOCHS=500,
            DATA__NUM_WORKERS=1,
        ),
        tmp_path / "run",
    )
    run.wait_for_step(5)
    begin = time.monotonic()
    for _ in range(5):
        try:
            os.killpg(run.process.pid, number)
        except ProcessLookupError:
            break
        time.sleep(0.05)
    assert run.end() == EXIT_STOPPED, run.text()[-1500:]
    row.seconds = time.monotonic() - begin
    assert f"stopped by {number.name} after step {step_of(tmp_path / 'run')}" in run.text()
    assert "Traceback" not in run.text() and run.survivors() == []
    row.seen = f"stopped after step {step_of(tmp_path / 'run')}, status {EXIT_STOPPED}"


def test_second_interrupt(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "Ctrl-C twice, the second while the last image blocks",
        "ends at once, status 130, no traceback",
    )
    root = copied(data, tmp_path / "data")
    keys = {"DATA__NUM_WORKERS": 1, "TRAIN__NUM_EPOCHS": 500}
    run = start(command("main_single_gpu.py", root, tmp_path / "run", **keys), tmp_path / "run")
    run.wait_for_step(3)
    make_hang(root / "my images" / "train_7.png")
    before = -1
    while lines_of(run.output) > before:
        before = lines_of(run.output)
        time.sleep(1.5)
    kill(run.process.pid, signal.SIGINT)
    time.sleep(1.2)  # less would be the same keypress
    begin = time.monotonic()
    kill(run.process.pid, signal.SIGINT)
    assert run.end() == 130, run.text()[-1500:]
    row.seconds = time.monotonic() - begin
    assert "Traceback" not in run.text(), run.text()[-1500:]
    assert run.survivors() == []
    row.seen = "interrupted, status 130, no worker left"


@pytest.mark.parametrize(
    ("number", "ranks"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGUSR1, 2), (signal.SIGTERM, 2)]
)
@pytest.mark.parametrize("moment", ["while the modules are imported", "before the first step"])
def test_a_signal_while_starting(
    data: Path, tmp_path: Path, row: Row, number: signal.Signals, ranks: int, moment: str
) -> None:
    row.fault = f"{number.name} {moment}, {ranks} rank(s)"
    row.expected = "ends within seconds, status 143 (Ctrl-C before training: 130), one line; no partial file"
    script, extra = ("main_single_gpu.py", []) if ranks == 1 else ("main_multi_gpu.py", ["-nprocs=2"])
    output = tmp_path / "run"
    run = start(command(script, data, output, *extra, TRAIN__NUM_EPOCHS=500), output)
    if moment == "before the first step":
        run.wait_for((output / "config.yaml").exists)
    else:
        run.wait_for(lambda: "libpaddle" in maps_of(run.process.pid))
    begin = time.monotonic()
    kill(run.process.pid, number)
    status = run.end()
    row.seconds = time.monotonic() - begin
    assert status in ({130, EXIT_STOPPED} if number == signal.SIGINT else {EXIT_STOPPED}), run.text()[-1500:]
    assert "Traceback" not in run.text() and "C++" not in run.text(), run.text()[-1500:]
    assert leftovers(output) == [] and run.survivors() == []
    said = [
        line for line in run.text().splitlines() if line.startswith(("stopped by", "interrupted", "error:"))
    ]
    assert 1 <= len(said) <= ranks, run.text()[-1500:]
    row.seen = f"status {status}: {said[0]}"


def maps_of(pid: int) -> str:
    """The files that a process has mapped; empty at its end."""
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
