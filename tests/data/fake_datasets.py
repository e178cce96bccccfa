"""Data sets for the tests of the loader. They have a module of their own because workers import it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from beit.data.images import ImageError
from beit.data.sampler import Sample


class Numbers:
    """Returns index and seed as arrays."""

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        return {"index": np.asarray(sample.index), "pair": np.asarray([sample.index, sample.seed])}

    def describe(self, sample: Sample) -> str:
        return f"number {sample.index}"


class Process(Numbers):
    """Returns facts about the process that reads it."""

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        time.sleep(0.02)
        return {
            "pid": np.asarray(os.getpid()),
            "has_paddle": np.asarray("paddle" in sys.modules),
            "threads": np.asarray(len(list(Path("/proc/self/task").iterdir()))),
            "blocks_signals": np.asarray(
                {signal.SIGINT, signal.SIGTERM} <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
            ),
        }


class Unreadable(Numbers):
    """Index 3 cannot be read."""

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        if sample.index == 3:
            raise ImageError("third.jpg", "an empty file (0 bytes)")
        return super().__getitem__(sample)


class Slow(Numbers):
    """Index 2 takes two minutes."""

    SECONDS = 120

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        time.sleep(self.SECONDS if sample.index == 2 else 0.01)
        return super().__getitem__(sample)


class Deadly(Numbers):
    """Index 2 kills its process, as the system does when memory runs out."""

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        if sample.index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(sample)


class TooLarge(Numbers):
    """Has an image that does not fit into memory."""

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        if sample.index == 3:
            raise MemoryError
        return super().__getitem__(sample)
