"""`python -m beit average`: write the average of several checkpoints, and measure it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from beit.flags import Parser
from beit.logging import format_table
from beit.parallel.signals import EXIT_STOPPED
from beit.printable import printable_lines
from beit.tools.arguments import verb_parser
from beit.train.average import average
from beit.train.state import RanksFailedError, StoppedError

EXAMPLES = (
    "python -m beit average average.pdparams output/run --last 3 --measure",
    "python -m beit average soup.pdparams one/model.pdparams two/model.pdparams --greedy",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write an average; print which checkpoints it has, and the metrics that were measured. Returns the exit status."""
    given = build_parser().parse_args(argv)
    sources = given.sources[0] if len(given.sources) == 1 else given.sources
    options = {name: vars(given)[name] for name in ("data_path", "device") if vars(given)[name]}
    try:
        found = average(
            sources,
            given.target,
            last=given.last,
            best=given.best,
            greedy=given.greedy,
            measure=given.measure,
            config=given.cfg,
            **options,
        )
    except (RanksFailedError, StoppedError) as error:  # of an evaluation with several ranks
        print(f"error: {error}", file=sys.stderr)
        return error.status if isinstance(error, RanksFailedError) else EXIT_STOPPED
    if found.score is None:
        lines = [f"average of {len(found.used)} checkpoints:", *map(str, found.used)]
    else:
        rows = [
            (str(path), f"{score:.4f}", "yes" if path in found.used else "no")
            for path, score in found.scores.items()
        ]
        lines = [
            format_table(
                [("weights", "metric", "used"), *rows, (given.target, f"{found.score:.4f}", "")], left=1
            )
        ]
    print(printable_lines("\n".join([*lines, f"written: {given.target}"])))
    return 0


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("average", __doc__, EXAMPLES)
    parser.add_argument("target", metavar="TARGET", help=".pdparams or .safetensors file to write")
    parser.add_argument(
        "sources", metavar="SOURCE", nargs="+", help="checkpoints; with --last or --best a run folder"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--last", type=int, metavar="K", help="the last K epochs that the run keeps (KEEP_LAST)"
    )
    which.add_argument(
        "--best", type=int, metavar="K", help="the K kept epochs with the best metrics in training"
    )
    parser.add_argument(
        "--greedy", action="store_true",
        help="from the best to the worst, keep a checkpoint only if the average does not become worse",
    )  # fmt: skip
    parser.add_argument("--measure", action="store_true", help="evaluate each checkpoint and the average")
    parser.add_argument(
        "--cfg", help="config of the evaluation (default: of the run folder of the first checkpoint)"
    )
    parser.add_argument(
        "--data-path", metavar="FOLDER", help="data of the evaluation (default: that of the config)"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "gpu"), help="of the evaluation")
    return parser
