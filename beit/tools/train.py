"""`python -m beit train`: train a model by a config, as `main_multi_gpu.py` does."""

from __future__ import annotations

from collections.abc import Sequence

from beit.flags import Parser, training_parser
from beit.train.entry import main as run_main

EXAMPLES = ("python -m beit train -cfg=demo_digits -data_path=digits -output=output/digits -device=cpu",)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    return training_parser("python -m beit train", EXAMPLES)


def main(argv: Sequence[str]) -> int:
    """Train, or evaluate with -eval; returns the exit status."""
    return run_main(build_parser(), single=False, argv=argv)
