"""Ranks start, stop with their launcher, and end well; signals during the start end a run with one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beit.parallel.launch import launch
from beit.parallel.signals import EXIT_INTERRUPTED, EXIT_STOPPED, STOP_SIGNALS
from tests.tiny import ROOT, command, environment, write_dataset

LAUNCH = """
import sys
from beit.parallel.launch import launch
from tests.parallel.launch_ranks import {worker}
if __name__ == "__main__":
    sys.exit(launch({worker}, (sys.argv[1],), ranks=2, device="cpu", grace=5.0))
"""


def start(worker: str, folder: Path) -> subprocess.Popen[str]:
    script = folder / "script.py"
    script.write_text(LAUNCH.format(worker=worker))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(folder)], env=environment(), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition: object, seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_ranks_that_leave_at_different_times_all_end_with_0(tmp_path: Path) -> None:
    process = start("leave_late", tmp_path)
    output, _ = process.communicate(timeout=240)
    assert (process.returncode, output.count("done")) == (0, 2), output


def test_ranks_stop_when_their_launcher_is_killed(tmp_path: Path) -> None:
    process = start("train_forever", tmp_path)
    wait_for(lambda: len(list(tmp_path.glob("pid*"))) == 2)
    pids = [int(file.read_text()) for file in tmp_path.glob("pid*")]
    process.kill()
    process.communicate()
    wait_for(lambda: not any(is_alive(pid) for pid in pids))
    assert sorted(file.read_text() for file in tmp_path.glob("stopped*")) == [
        "15",
        "15",
    ]  # all ranks agreed after a step


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_the_handlers_stay_when_the_device_is_set(number: signal.Signals) -> None:
    code = f"""
from beit.parallel.signals import exit_on_stop_signals
with exit_on_stop_signals():
    from beit.parallel import ranks
import signal
ranks.start("cpu")
signal.raise_signal({int(number)})
"""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment(), cwd=ROOT, text=True, capture_output=True, check=False
    )  # fmt: skip
    expected = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_STOPPED
    assert result.returncode == expected, result.stderr
    assert result.stderr.splitlines()[-1].startswith(("stopped by", "interrupted"))


def test_a_signal_while_the_status_of_a_rank_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    waitpid, read = os.waitpid, []

    def waitpid_and_signal(pid: int, options: int) -> tuple[int, int]:
        result = waitpid(pid, options)
        if result[0]:
            read.append(pid)
            signal.raise_signal(signal.SIGUSR1)
        return result

    monkeypatch.setattr(os, "waitpid", waitpid_and_signal)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert launch(sys.exit, (EXIT_STOPPED,), ranks=2, device="cpu", grace=1.0) == EXIT_STOPPED
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(read) == 2


@pytest.mark.parametrize(
    ("ranks", "moment", "number"),
    [
        (1, "Python starts", signal.SIGTERM),
        (1, "Paddle is imported", signal.SIGINT),
        (1, "Paddle is imported", signal.SIGUSR1),
        (2, "Paddle is imported", signal.SIGTERM),
        (2, "the ranks import Paddle", signal.SIGUSR1),
    ],
)
def test_a_signal_during_the_start_ends_the_run_with_one_line(
    ranks: int, moment: str, number: signal.Signals, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data")
    script, extra = ("main_single_gpu.py", []) if ranks == 1 else ("main_multi_gpu.py", ["-nprocs=2"])
    process = subprocess.Popen(
        command(script, data, tmp_path / "run", *extra, TRAIN__NUM_EPOCHS=300), env=environment(), cwd=ROOT, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    if moment == "Python starts":
        time.sleep(0.4)
    elif moment == "Paddle is imported":
        wait_for(lambda: imports_paddle(process.pid))
    else:
        wait_for(lambda: any(imports_paddle(pid) for pid in children_of(process.pid)))
    process.send_signal(number)
    _, errors = process.communicate(timeout=240)
    allowed = {EXIT_STOPPED, EXIT_INTERRUPTED} if number == signal.SIGINT else {EXIT_STOPPED}
    if moment == "Python starts":  # it may not have reached the first line of the script
        allowed |= {-number, 1}
    assert process.returncode in allowed, errors
    # Depending on the moment, Paddle's notes on its import and the progress of an evaluation come before the line.
    lines = [line for line in errors.splitlines() if line.startswith(("stopped by", "error:"))]
    assert "Traceback" not in errors and len(lines) <= ranks, errors


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def imports_paddle(pid: int) -> bool:
    try:
        return "libpaddle" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False
