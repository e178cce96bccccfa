"""Candidates without real work, for tests/bench/test_timing.py."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


def add(work):
    """Returns six numbers from `value` on after `seconds`; prints, as libraries do."""

    def step():
        print("noise of a library")
        time.sleep(work["seconds"])
        return np.arange(6.0).reshape(2, 3) + work["value"]

    return step


def named(work):
    return lambda: {"logits": np.zeros((2, 3))}


def broken(work):
    raise ValueError(f"cannot do {work['value']}")


def tiring(work):
    """Fails at its third step."""
    steps = iter([np.zeros((2, 3)), np.zeros((2, 3))])
    return lambda: next(steps)


def once(work):
    """Fails in every process but the first, which makes the file."""
    Path(work["file"]).touch(exist_ok=False)
    return add(work)


def dying(work):
    os._exit(3)


def machine(work):
    def step():
        time.sleep(work["seconds"])
        return {"multiply_adds": np.asarray(1e6)}

    return step
