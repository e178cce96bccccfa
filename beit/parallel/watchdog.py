"""Ends a rank that makes no progress, so that a job with a hanging rank ends with a message."""

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
"""Exit status of a rank that made no progress for `RANK_TIMEOUT` seconds (the status of the `timeout` command)."""

_TICK = 0.5  # seconds between checks


class _Process:
    """Seconds since the last heartbeat of this process."""

    idle = 0.0


def heartbeat() -> None:
    """Reset the timer: called after each training step, each evaluation batch and each written file."""
    _Process.idle = 0.0


@contextlib.contextmanager
def watch(seconds: float, *, name: str, may_block: bool = False) -> Iterator[None]:
    """End this process with `EXIT_HUNG` and a line on stderr when `seconds` pass without a `heartbeat`.

    When a rank hangs, is suspended, or loses its machine, the other ranks wait for it in a collective, on gloo forever.
    Their watchdogs end them, and launchers end a job in which a rank has died.

    A thread of this process counts the seconds, no clock is read: a suspended job, a sleeping computer or a clock
    change does not count.

    Args:
        seconds: several times what the longest step, save or start takes; 0 disables the watchdog.
        name: name of this rank in the message.
        may_block: calls into the device may hold the GIL, so that the thread cannot run. A C timer of faulthandler, which
            reads the clock, then ends the process after twice the time.
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
    """Timeout for the rendezvous of the ranks; 0 disables it.

    Paddle holds the GIL there, so the thread of `watch` cannot run. faulthandler's C timer prints `Timeout` and the
    stack of this rank instead.
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
                "one it waits for hangs. The newest checkpoint is intact: continue with -resume auto"
            )
            print(message, file=sys.stderr, flush=True)
            os._exit(EXIT_HUNG)


def _place() -> str:
    """The line of this package that the main thread is executing."""
    package = Path(__file__).parents[1]
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    stack = traceback.extract_stack(frame) if frame is not None else []
    own = [entry for entry in stack if Path(entry.filename).is_relative_to(package)]
    if not own:
        return "outside of this package"
    entry = own[-1]
    return f"in {Path(entry.filename).name}:{entry.lineno} {entry.name}: {entry.line}"
