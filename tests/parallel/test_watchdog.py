"""The watchdog in processes of its own: when it ends them, its messages, and times that do not count."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

from beit.parallel.watchdog import EXIT_HUNG
from tests.tiny import ROOT


def start(body: str) -> subprocess.Popen[str]:
    code = "import time\nfrom beit.parallel import watchdog\n" + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


def test_a_process_without_heartbeats_is_ended_with_a_message() -> None:
    process = start("""
        with watchdog.watch(1.0, name="rank 3 of 4"):
            time.sleep(300)
    """)
    _, said = process.communicate(timeout=240)
    assert process.returncode == EXIT_HUNG
    assert said.startswith(
        "error: rank 3 of 4: nothing happened for RANK_TIMEOUT = 1 seconds, outside of this package;"
    )


def test_heartbeats_and_the_end_of_the_block_keep_the_process() -> None:
    process = start("""
        with watchdog.watch(2.0, name="rank"):
            for _ in range(10):
                time.sleep(0.3)
                watchdog.heartbeat()
        time.sleep(3.0)
        print("done")
    """)
    said, _ = process.communicate(timeout=240)
    assert (process.returncode, said) == (0, "done\n")


def test_a_limit_of_zero_starts_no_thread() -> None:
    process = start("""
        import threading
        with watchdog.watch(0.0, name="rank"), watchdog.startup_timeout(0.0, name="rank"):
            print(threading.active_count())
    """)
    said, _ = process.communicate(timeout=240)
    assert (process.returncode, said) == (0, "1\n")


def test_time_while_the_process_is_stopped_does_not_count() -> None:
    process = start("""
        with watchdog.watch(3.0, name="rank"):
            print("ready", flush=True)
            time.sleep(1.0)
            watchdog.heartbeat()
            time.sleep(0.5)
        print("done")
    """)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(4.0)
    os.kill(process.pid, signal.SIGCONT)
    assert process.communicate(timeout=240)[0] == "done\n"


def test_a_start_that_holds_the_gil_is_ended() -> None:
    process = start("""
        import re
        with watchdog.watch(0.5, name="rank"), watchdog.startup_timeout(1.0, name="rank 0 of 2"):
            re.match(r"(a+)+$", "a" * 60 + "b")  # never releases the GIL
    """)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 1
    assert said.startswith(
        "rank 0 of 2: waits for the other ranks, 1 seconds at most (RANK_TIMEOUT)\nTimeout (0:00:01)!"
    )
