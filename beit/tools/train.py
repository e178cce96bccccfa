"""`python -m beit train`: the documented training command without a script."""

from __future__ import annotations

from collections.abc import Sequence

from beit.tools.arguments import examples_text
from beit.train.entry import main as run_main

EXAMPLES = ("python -m beit train -cfg=demo_digits -data_path=digits -output=output/digits -device=cpu",)


def main(argv: Sequence[str]) -> int:
    """Train (or, with -eval, evaluate) as main_multi_gpu.py does; its exit status."""
    return run_main("python -m beit train", single=False, argv=argv, epilog=examples_text(EXAMPLES))
