"""`python -m beit convert`: convert a checkpoint of any known format to another one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from beit.card import CARD, write_card
from beit.checkpoint.convert import convert
from beit.checkpoint.publishers import PUBLISHERS
from beit.flags import Parser
from beit.printable import printable_lines
from beit.tools.arguments import verb_parser
from beit.zoo import path_of

EXAMPLES = (
    "python -m beit convert output/run/model.pdparams model.safetensors",
    "python -m beit convert output/run folder --to timm",
    "python -m beit convert output/run unilm.pth --to unilm",
)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("convert", __doc__, EXAMPLES)
    parser.add_argument(
        "source",
        metavar="SRC",
        help="checkpoint of any known format: a file, a model folder, a run folder, or a published name",
    )
    parser.add_argument(
        "target", metavar="DST", help=".pdparams, .safetensors or .pth file; a folder for timm, huggingface"
    )
    parser.add_argument(
        "--to", default="canonical", choices=PUBLISHERS, help="format to write (default: canonical)"
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="use the averaged weights of a training checkpoint, or not (default: as its publisher evaluates)",
    )
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="where SRC holds several state dicts: the key or prefix of the one to take",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Convert a checkpoint; print the report."""
    given = build_parser().parse_args(argv)
    report = convert(path_of(given.source), given.target, publisher=given.to, ema=given.ema, key=given.key)
    print(printable_lines(str(report)))
    target = Path(given.target)
    card = target / CARD if target.is_dir() else target.with_suffix(f".{CARD}")
    write_card(card, given.source, ema=given.ema, key=given.key)
    print(f"written as {given.to}: {given.target}, described in {card}")
