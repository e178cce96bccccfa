"""Whether a supported Paddle is installed, without importing it."""

from __future__ import annotations

import importlib.util
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
_OLDEST = (3, 0)


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
        f"{problem}. Install it for the CPU, or for NVIDIA GPUs (cu118, cu126, cu129 or cu130, see README.md):\n"
        f"  {CPU_LINE}\n"
        f"  {GPU_LINE}"
    )


def require_paddle() -> None:
    """`check_paddle` for commands: prints the message and ends the process with status 2."""
    try:
        check_paddle()
    except PaddleError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _release(version: str) -> tuple[int, ...]:
    """`3.0.0rc1` -> (3, 0)."""
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
