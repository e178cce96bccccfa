"""Settings every test needs before Paddle is loaded."""

from __future__ import annotations

import os

# Several test processes share few cores; the tiny shapes gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
