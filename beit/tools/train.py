"""`python -m beit train`: train a model by a config, as `main_multi_gpu.py` does."""

from __future__ import annotations

from collections.abc import Sequence

from beit.tools.arguments import examples_text
from beit.train.entry import main as run_main

EXAMPLES = ("python -m beit train -cfg=demo_digits -data_path=digits -output=output/digits -device=cpu",)


def main(argv: Sequence[str]) -> int:
    """Train, or evaluate with -eval; returns the exit status."""
    return run_main("python -m beit train", single=False, argv=argv, epilog=examples_text(EXAMPLES))
