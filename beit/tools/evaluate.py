"""`python -m beit evaluate`: evaluate weights on the validation images, as `main_multi_gpu.py -eval` does."""

from __future__ import annotations

from collections.abc import Sequence

from beit.flags import Parser, config_from, training_parser
from beit.train.entry import exit_status, show_warnings
from beit.train.entry import main as run_main
from beit.train.evaluation_sets import evaluate_sets

EXAMPLES = (
    "python -m beit evaluate -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams -data_path=digits "
    "-output=output/evaluation -device=cpu",
    "python -m beit evaluate -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams -data_path=digits "
    "-output=output/sets -device=cpu --sets val numbered=numbered",
)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = training_parser("python -m beit evaluate", EXAMPLES)
    parser.add_argument(
        "--sets", nargs="+", metavar="SET",
        help="test sets for one table: val for the validation images, NAME=PATH for real.json (ReaL), class folders "
        "(ImageNet-V2, -A, -R, -Sketch) or ImageNet-C",
    )  # fmt: skip
    return parser


def main(argv: Sequence[str]) -> int:
    """Evaluate; returns the exit status."""
    words, parser = ["-eval=True", *argv], build_parser()
    given = parser.parse_args(words)
    if not given.sets:
        return run_main(parser, single=False, argv=words)
    show_warnings()
    return exit_status(lambda: evaluate_sets(config_from(given), given.sets))
