"""The signals that ask a run to stop, before and while its processes start. Imports nothing heavy: data workers need it."""

from __future__ import annotations

import multiprocessing.resource_tracker
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Sent by the system, by Ctrl-C, and by batch systems before the time limit."""

EXIT_STOPPED, EXIT_INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
"""Exit statuses: a requested stop (in training, after saving the state); Ctrl-C outside of training, or pressed twice."""


EXIT_BEFORE_TRAINING = 75
"""Status with which a rank tells its launcher that a signal ended it before training: the others may wait for it."""


@contextmanager
def exit_on_stop_signals(*, is_rank: bool = False) -> Iterator[None]:
    """Import Paddle in this block; after it, until training starts, `STOP_SIGNALS` end the process with one line.

    The signals are blocked inside the block: while it is imported, Paddle installs handlers that print a page of C++ frames.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, _exit_rank if is_rank else _exit)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


@contextmanager
def blocked_for_children() -> Iterator[None]:
    """Processes started inside this block start with `STOP_SIGNALS` blocked, and so does Python's resource tracker.

    Batch systems send these signals to every process of a job. The main process handles them, and needs its workers to
    finish its step.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        multiprocessing.resource_tracker.ensure_running()  # inherits the mask, and unblocks two signals here
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def restored_handlers() -> Iterator[None]:
    """After this block the handlers of `STOP_SIGNALS` are those from before it.

    In another thread than the main one nothing is restored: Python installs handlers in the main thread only.
    """
    if not in_main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # one that was not installed in Python
                signal.signal(number, handler)


@contextmanager
def keep_handlers() -> Iterator[None]:
    """As `restored_handlers`, for a block that removes the handlers; signals in between wait for its end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        with restored_handlers():
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def in_main_thread() -> bool:
    """Whether this is the main thread, the only one in which Python installs handlers of signals."""
    return threading.current_thread() is threading.main_thread()


def report_early_exit(number: int) -> int:
    """Print that a signal ended the run before training; returns the exit status."""
    is_interrupt = number == signal.SIGINT
    message = (
        "interrupted"
        if is_interrupt
        else f"stopped by {signal.Signals(number).name}; no training step had begun"
    )
    print(message, file=sys.stderr, flush=True)
    return EXIT_INTERRUPTED if is_interrupt else EXIT_STOPPED


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(report_early_exit(number))


def _exit_rank(number: int, _frame: FrameType | None) -> None:
    sys.exit(EXIT_BEFORE_TRAINING)
