"""`python -m tests.faults [pytest arguments]`: every fault against the real commands, and the results."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    # A shell that starts this in the background has SIGINT ignored, and all commands would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    words = sys.argv[1:]
    places = [] if any(Path(word.split("::")[0]).exists() for word in words) else [str(Path(__file__).parent)]
    sys.exit(pytest.main([*places, "-m", "faults", "-q", "-p", "no:cacheprovider", *words]))
