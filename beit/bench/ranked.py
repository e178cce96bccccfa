"""The training step of `-nprocs auto` on a CPU, one rank per core, as a step for `beit.bench.worker`.

The process of the candidate starts the ranks and imports nothing that computes; each rank waits for its request, so it
uses no processor time while another candidate is timed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from beit.bench.worker import Step


def train(work: Mapping[str, Any]) -> Step:
    """A full training step of `threads` ranks with one thread each, which share the batch.

    The results are the first losses, averaged over the ranks.

    Raises:
        ValueError: the batch cannot be divided by the number of ranks.
    """
    count = work["threads"]
    if work["batch"] % count:
        raise ValueError(f"a batch of {work['batch']} cannot be divided among {count} ranks")
    os.environ["OMP_NUM_THREADS"] = "1"  # before Paddle is imported
    from paddle import distributed

    pipes = [multiprocessing.Pipe() for _ in range(count)]
    options = {"daemon": True, "backend": "gloo", "start_method": "spawn"}
    started = distributed.spawn(
        _run_rank, (dict(work), [end for _, end in pipes]), count, join=False, **options
    )
    for _, end in pipes:  # so that a rank that fails ends the step with an error
        end.close()

    def step() -> dict[str, np.ndarray]:
        for request, _ in pipes:
            request.send(None)
        try:
            losses = [request.recv() for request, _ in pipes]
        except EOFError:
            started.join()  # raises the error of the rank
            raise
        return {"losses": np.mean(losses, axis=0)}

    return step


def _run_rank(work: dict[str, Any], ends: list[Connection]) -> None:
    """A rank: one step for each request, until the process that sends them ends."""
    from beit.bench.candidates import train
    from beit.parallel import ranks

    ranks.start("cpu")
    step = train(work, slice(ranks.rank(), None, ranks.world_size()))
    requests = ends[ranks.rank()]
    while True:
        try:
            requests.recv()
        except EOFError:
            return
        requests.send(step()["losses"])
