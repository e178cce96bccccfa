"""Stopping a run on a signal: all ranks leave the loop after the same step."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import paddle
from paddle import distributed

from beit.parallel import watchdog
from beit.parallel.ranks import world_size
from beit.parallel.signals import STOP_SIGNALS, in_main_thread

_SAME_KEYPRESS = 1.0  # seconds


class StopVote:
    """Lets all ranks leave the loop after the same step once any rank has received a stop signal.

    A signal reaches the ranks at different steps. Each step all-reduces one number, and its result is read one step
    later, so the host never waits for the step that is running.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._previous: paddle.Tensor | None = None

    def request(self, signal_number: int) -> None:
        """Ask to stop; signal handlers call it. Only the first signal counts."""
        self.requested = self.requested or signal_number

    def passed(self) -> bool:
        """Whether all ranks stop now. Every rank calls it once after each step."""
        watchdog.heartbeat()
        if world_size() == 1:
            return bool(self.requested)
        votes = paddle.to_tensor(float(self.requested))
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        previous, self._previous = self._previous, votes
        if previous is None or not float(previous):
            return False
        self.requested = int(float(previous))
        return True


@contextmanager
def stop_signals() -> Iterator[StopVote]:
    """In this block SIGTERM, SIGINT and SIGUSR1 request a stop; a second Ctrl-C interrupts at once.

    Launchers and batch systems repeat their signals until the process is gone, so the handlers stay after a request. One
    Ctrl-C reaches a rank twice, from the terminal and from its launcher; within a second the two count as one.

    In another thread than the main one the signals keep their handlers.
    """
    vote = StopVote()
    if not in_main_thread():
        yield vote
        return
    first_request = math.inf

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first_request
        if number == signal.SIGINT and time.monotonic() - first_request > _SAME_KEYPRESS:
            raise KeyboardInterrupt
        first_request = min(first_request, time.monotonic())
        vote.request(number)

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield vote
    finally:
        if not vote.requested:
            for number, handler in previous.items():
                signal.signal(number, handler)
