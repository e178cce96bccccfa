"""`python -m beit evaluate`: evaluate weights on the validation images, as `main_multi_gpu.py -eval` does."""

from __future__ import annotations

from collections.abc import Sequence

from beit.flags import Parser, training_parser
from beit.train.entry import main as run_main

EXAMPLES = (
    "python -m beit evaluate -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams -data_path=digits "
    "-output=output/evaluation -device=cpu",
)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    return training_parser("python -m beit evaluate", EXAMPLES)


def main(argv: Sequence[str]) -> int:
    """Evaluate; returns the exit status."""
    return run_main(build_parser(), single=False, argv=["-eval=True", *argv])
