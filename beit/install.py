"""Whether a supported Paddle is installed, without importing it."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from importlib import metadata

PADDLE_RANGE = ">=3.0,<3.4"
"""Versions of Paddle that the tests run on; `pyproject.toml` has the same."""

CPU_LINE = f'python -m pip install "paddlepaddle{PADDLE_RANGE}"'
GPU_LINE = (
    f'python -m pip install "paddlepaddle-gpu{PADDLE_RANGE}" '
    "-i https://www.paddlepaddle.org.cn/packages/stable/cu126/"
)

_DISTRIBUTIONS = ("paddlepaddle", "paddlepaddle-gpu")
_OLDEST, _FIRST_UNTESTED = (3, 0), (3, 4)

LAUNCHER_ADVICE = (
    "Start the ranks with paddle.distributed.launch or -nprocs, or unset the variables of an earlier launch"
)
"""Ends the messages on wrong environment variables of a launcher."""


class PaddleError(ImportError):
    """Paddle is missing or too old; the message has the commands that install it."""


def paddle_version() -> str | None:
    """Version of the installed Paddle package; None if it has none (not installed, or built from source)."""
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None


def is_tested(version: str) -> bool:
    """Whether a version of Paddle is in `PADDLE_RANGE`."""
    return _OLDEST <= _release(version) < _FIRST_UNTESTED


def check_paddle() -> None:
    """Check that Paddle is installed and not too old.

    Raises:
        PaddleError: it is not.
    """
    found = paddle_version()
    if importlib.util.find_spec("paddle") is None:
        problem = "Paddle is not installed"
    elif found is not None and _release(found) < _OLDEST:
        problem = f"Paddle {found} is installed, which is too old"
    else:
        return
    raise PaddleError(
        f"{problem}. Install it for the CPU, or for NVIDIA GPUs (cu118, cu126, cu129 or cu130, see docs/manual.md):\n"
        f"  {CPU_LINE}\n"
        f"  {GPU_LINE}"
    )


def launcher_numbers() -> tuple[int, int]:
    """Rank and number of ranks from the environment variables of a launcher; without a launcher 0 and 1.

    Paddle fails on wrong ones when it is imported.

    Raises:
        ValueError: one of the two is not a number.
    """
    numbers = []
    for name, default in (("PADDLE_TRAINER_ID", "0"), ("PADDLE_TRAINERS_NUM", "1")):
        text = os.environ.get(name, default)
        if not re.fullmatch("[0-9]{1,9}", text):
            raise ValueError(
                f"the environment variable {name} is {text[:40]!r}; expected a number. {LAUNCHER_ADVICE}"
            )
        numbers.append(int(text))
    return numbers[0], numbers[1]


def require_paddle() -> None:
    """Check that Paddle can be imported; otherwise print what to do and end the process with status 2."""
    try:
        check_paddle()
        launcher_numbers()
    except (PaddleError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _release(version: str) -> tuple[int, ...]:
    """`3.0.0rc1` -> (3, 0)."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
