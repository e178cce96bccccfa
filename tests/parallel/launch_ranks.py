"""Work of the ranks in test_launch.py; a module without tests, so that ranks can import it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import paddle

from beit.parallel import ranks
from beit.parallel.stop import stop_signals


def leave_late(folder: str) -> None:
    """Work together, then leave at different times."""
    ranks.start("cpu")
    for _ in range(20):
        assert ranks.all_reduce_sum({"one": 1.0}) == {"one": 2.0}
        ranks.sum_over_ranks(paddle.ones([1000]))
    time.sleep(0.3 * ranks.rank())
    print("done", flush=True)


def train_forever(folder: str) -> None:
    """Steps until a stop is agreed on; notes process and signal."""
    ranks.start("cpu")
    with stop_signals() as stop:
        (Path(folder) / f"pid{ranks.rank()}").write_text(str(os.getpid()))
        while not stop.passed():
            time.sleep(0.01)
        (Path(folder) / f"stopped{ranks.rank()}").write_text(str(stop.requested))
    sys.exit(143)
