"""`python -m tests.faults [pytest arguments]`: every fault against the real commands, and the table of what was seen."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main([str(Path(__file__).parent), "-m", "faults", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
