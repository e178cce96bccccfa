"""`python -m beit evaluate`: evaluate weights on the validation images, as `main_multi_gpu.py -eval` does."""

from __future__ import annotations

from collections.abc import Sequence

from beit.tools.arguments import examples_text
from beit.train.entry import main as run_main

EXAMPLES = (
    "python -m beit evaluate -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams -data_path=digits "
    "-output=output/evaluation -device=cpu",
)


def main(argv: Sequence[str]) -> int:
    """Evaluate; returns the exit status."""
    return run_main(
        "python -m beit evaluate", single=False, argv=["-eval", *argv], epilog=examples_text(EXAMPLES)
    )
