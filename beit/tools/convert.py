"""`python -m beit convert`: any checkpoint form into any other."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from beit.checkpoint.convert import convert
from beit.checkpoint.publishers import PUBLISHERS


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `convert`; prints the report."""
    parser = argparse.ArgumentParser(prog="python -m beit convert", description=__doc__)
    parser.add_argument(
        "source", metavar="SRC", help="checkpoint of any known form: a file, or a model folder"
    )
    parser.add_argument(
        "target", metavar="DST", help=".pdparams or .safetensors file; a folder for timm, huggingface"
    )
    parser.add_argument(
        "--to", default="canonical", choices=PUBLISHERS, help="form to write (default: canonical)"
    )
    parser.add_argument(
        "--ema",
        action=argparse.BooleanOptionalAction,
        help="take the averaged weights of a training checkpoint, or not (default: as its publisher evaluates)",
    )
    arguments = parser.parse_args(argv)
    print(convert(arguments.source, arguments.target, publisher=arguments.to, ema=arguments.ema))
    print(f"written as {arguments.to}: {arguments.target}")
