"""Starts one process per rank and supervises them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from paddle import distributed

from beit.cpu import cores, given_threads
from beit.parallel.signals import (
    EXIT_BEFORE_TRAINING,
    EXIT_INTERRUPTED,
    EXIT_STOPPED,
    STOP_SIGNALS,
    blocked_for_children,
    exit_on_stop_signals,
    in_main_thread,
    report_early_exit,
)


def launch(
    worker: Callable[..., Any], arguments: tuple[Any, ...], *, ranks: int, device: str, grace: float
) -> int:
    """Run `worker(*arguments)` in several processes on this machine; the exit status is 0 when all of them succeed.

    When a rank dies, the others would wait for it in a collective forever: they get SIGTERM, and SIGKILL after `grace`
    seconds. `STOP_SIGNALS` sent to this process are forwarded to the ranks. When this process dies, the ranks stop as
    after SIGTERM.

    Args:
        worker: an importable function; it ends its process with `sys.exit` for a status other than 0.
        arguments: picklable.
        ranks: number of processes.
        device: "gpu" (NCCL) or "cpu" (gloo; the ranks share the cores).
        grace: seconds.
    """
    options: dict[str, Any] = {"backend": "nccl" if device == "gpu" else "gloo", "start_method": "spawn"}
    if device == "cpu":
        os.environ["OMP_NUM_THREADS"] = given_threads() or str(max(1, cores() // ranks))
    with warnings.catch_warnings(), blocked_for_children():
        warnings.filterwarnings("ignore", message="Your model will be trained under CPUONLY")
        context = distributed.spawn(
            _run_rank, args=(worker, arguments, grace), nprocs=ranks, join=False, daemon=False, **options
        )
        return _supervise(context.processes, context.error_queues, grace)


def leave(status: int) -> NoReturn:
    """End a rank that has done its work, without the interpreter's cleanup.

    Communication threads of the process group still run. When another rank has closed its connections, destroying them
    can abort the process.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run_rank(worker: Callable[..., Any], arguments: tuple[Any, ...], grace: float) -> NoReturn:
    """The whole life of a rank; exceptions are reported by the caller, Paddle's spawn."""
    with exit_on_stop_signals(is_rank=True):  # they are blocked since the process was started
        _stop_with_launcher(grace)
    try:
        worker(*arguments)
    except SystemExit as ended:
        leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    leave(0)


def _stop_with_launcher(grace: float) -> None:
    """Stop this rank when the process that started it has died, even by SIGKILL; end it after `grace` seconds."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None

    def watch() -> None:
        launcher.join()
        print("error: the launching process has died; stopping", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(EXIT_STOPPED)

    threading.Thread(target=watch, name="stop-with-launcher", daemon=True).start()


def _supervise(processes: list[Any], errors: list[Any], grace: float) -> int:
    received: list[int] = []
    running = {process.sentinel: index for index, process in enumerate(processes)}

    def forward(number: int, _frame: Any) -> None:
        # Ranks leave `running` before their status is read. Reading it here as well, as `is_alive` does, could take it
        # from `join`: a process gives its status once.
        received.append(number)
        for index in running.values():
            os.kill(processes[index].pid, number)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS if in_main_thread()}
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        while running:
            for sentinel in wait(list(running)):
                index = running.pop(sentinel)
                processes[index].join()
                if processes[index].exitcode in (0, EXIT_STOPPED, EXIT_INTERRUPTED):
                    continue
                running.clear()  # the others are ended below; signals are no longer forwarded to them
                if processes[index].exitcode == EXIT_BEFORE_TRAINING:
                    _end(processes, grace)
                    return report_early_exit(received[0] if received else signal.SIGTERM)
                return _end_all(processes, errors, index, grace)
        return max(int(process.exitcode) for process in processes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_all(processes: list[Any], errors: list[Any], failed: int, grace: float) -> int:
    """Stop the ranks that still run, print why, and return the exit status of the failed one."""
    code = int(processes[failed].exitcode)
    if not errors[failed].empty():
        print(errors[failed].get(), file=sys.stderr)
    fate = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    print(
        f"error: rank {failed} of {len(processes)} {fate}; stopping the other ranks",
        file=sys.stderr,
        flush=True,
    )
    for index, process in enumerate(processes):
        if process.is_alive() and _is_suspended(process.pid):
            print(
                f"error: rank {index} of {len(processes)} is stopped (SIGSTOP, or a debugger)",
                file=sys.stderr,
            )
    _end(processes, grace)
    return 128 - code if code < 0 else code


def _end(processes: list[Any], grace: float) -> None:
    """Send SIGTERM to all ranks that still run, and SIGKILL after `grace` seconds."""
    deadline = time.monotonic() + grace
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _is_suspended(pid: int) -> bool:
    """Whether the process is suspended; False on systems without `/proc`."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] in "Tt"
