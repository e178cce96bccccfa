"""What the fuzzers of checkpoints share. `BEIT_FUZZ_SECONDS` (5) is the time of each, `BEIT_FUZZ_SEED` (0) draws other inputs."""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import beit

SECONDS = float(os.environ.get("BEIT_FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("BEIT_FUZZ_SEED", "0"))
FEWEST = 100
"""Inputs that are drawn however slow the machine is."""
SECONDS_OF_ONE_STEP = 20  # of the processor
PACKAGE = Path(beit.__file__).parent


def pick(rng: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise an AssertionError when the block takes more than `SECONDS_OF_ONE_STEP` of the processor."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"takes more than {SECONDS_OF_ONE_STEP} s")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_OF_ONE_STEP)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


def fits_a_terminal(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n")) and len(text) < 8000


def outcome(step: str, do: Callable[[], Any]) -> str:
    """ "value", or the class of an error of this package with a message of one line that names the file or tensor."""
    try:
        with warnings.catch_warnings(), limited_time():
            warnings.simplefilter("ignore")  # of weights that are NaN
            result = do()
    except ValueError as error:
        raiser = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        assert raiser.is_relative_to(PACKAGE), f"{raiser} raises {error}"
        # What does not fit a model is a list.
        assert fits_a_terminal(str(error)) and ("\n" not in str(error) or step == "load_pretrained"), repr(
            error
        )
        return type(error).__name__
    assert step != "report" or fits_a_terminal(result), repr(result)
    return "value"
