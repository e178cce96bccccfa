"""Ends a rank that stands still, so that a job whose rank hangs ends with a message. Floor 0."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

EXIT_HUNG = 124
"""Exit status of a rank that stood still for `RANK_TIMEOUT` seconds (the status of `timeout`)."""

_TICK = 0.5  # seconds between looks


class _Process:
    """What this process watches."""

    idle = 0.0


def heartbeat() -> None:
    """Say that this rank got on: after each step, each batch of an evaluation, each file that was written."""
    _Process.idle = 0.0


@contextlib.contextmanager
def watch(seconds: float, *, name: str, may_block: bool = False) -> Iterator[None]:
    """End this process with `EXIT_HUNG` and a line on stderr once `seconds` pass without a `heartbeat`; 0 for never.

    When a rank hangs, is stopped, or its machine is gone, the others wait for it in a collective, for ever on
    gloo. Their watchdogs end them, and with them the job: any launcher ends a job in which a rank has died.

    Seconds are counted by a thread of this process and not read from a clock, so that a job that is suspended as
    a whole, a computer that sleeps, or a clock that jumps costs nothing.

    Args:
        seconds: what the longest step, save or start takes, several times over.
        name: of this rank, for the message.
        may_block: calls into the device may hold the interpreter, and this thread with it; a timer of the
            interpreter's C code, which reads the clock, stands by with twice the time.
    """
    if not seconds:
        yield
        return
    over = threading.Event()
    heartbeat()
    thread = threading.Thread(
        target=_watch, args=(seconds, name, may_block, over), name="watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if may_block:
            faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def startup_timeout(seconds: float, *, name: str) -> Iterator[None]:
    """The same while the ranks look for each other; 0 for never. Paddle holds the interpreter there, and with it the thread of `watch`.

    The interpreter's own timer then prints `Timeout` and where this rank is.
    """
    if not seconds:
        yield
        return
    print(
        f"{name}: waits for the other ranks, {seconds:g} seconds at most (RANK_TIMEOUT)",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback_later(seconds, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _watch(seconds: float, name: str, may_block: bool, over: threading.Event) -> None:
    while not over.wait(_TICK):
        _Process.idle += _TICK
        if may_block:
            faulthandler.dump_traceback_later(2 * seconds, exit=True, file=2)
        if _Process.idle >= seconds:
            message = (
                f"error: {name}: nothing happened for RANK_TIMEOUT = {seconds:g} seconds, {_place()}; this rank or "
                "one it waits for hangs. The newest checkpoint is whole: continue with -resume auto"
            )
            print(message, file=sys.stderr, flush=True)
            os._exit(EXIT_HUNG)


def _place() -> str:
    """Where in this package the main thread is."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = traceback.extract_stack(frame) if frame is not None else []
    own = [entry for entry in stack if Path(entry.filename).parent.is_relative_to(Path(__file__).parent)]
    if not own:
        return "outside of this package"
    entry = own[-1]
    return f"in {Path(entry.filename).name}:{entry.lineno} {entry.name}: {entry.line}"
