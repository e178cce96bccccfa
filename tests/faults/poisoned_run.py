"""The training command in which one rank's loss, or its gradient, turns NaN at a step: `POISON=rank:step:what`."""

from __future__ import annotations

import os
import sys
from typing import Any

from beit.tasks.classify import Classify


def poison() -> None:
    rank, step, what = os.environ["POISON"].split(":")
    real, calls = Classify.forward, iter(range(10**9))

    def forward(self: Classify, batch: Any, rng: Any) -> dict[str, Any]:
        losses = real(self, batch, rng)
        if next(calls) + 1 == int(step) and os.environ.get("PADDLE_TRAINER_ID", "0") == rank:
            factor = float("nan") if what == "nan" else float("inf")
            losses["loss"] = losses["loss"] * factor
        return losses

    Classify.forward = forward


poison()  # also in the ranks, which import this file again

if __name__ == "__main__":
    from beit.flags import training_parser
    from beit.train.entry import main

    sys.exit(main(training_parser("main_multi_gpu.py"), single=False))
