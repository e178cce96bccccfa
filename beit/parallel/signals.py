"""The signals that ask a run to save and stop. Floor 0; imports nothing heavy, data workers need it."""

from __future__ import annotations

import multiprocessing.resource_tracker
import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Of systems, of people, and of batch systems before the time is up."""


@contextmanager
def blocked_for_children() -> Iterator[None]:
    """Processes started in this block never see `STOP_SIGNALS`; nor does the standard library's resource tracker.

    Batch systems send them to every process of a job, and it is the main process that answers, with the others' help
    to finish its step.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        multiprocessing.resource_tracker.ensure_running()  # inherits the mask, and unblocks two of them here
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
