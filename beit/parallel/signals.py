"""The signals that ask a run to save and stop. Data workers import this module, so it imports nothing heavy."""

from __future__ import annotations

import multiprocessing.resource_tracker
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Sent by the system, by Ctrl-C, and by batch systems before the time limit."""


@contextmanager
def blocked_for_children() -> Iterator[None]:
    """Processes started inside this block ignore `STOP_SIGNALS`, and so does Python's resource tracker.

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
