"""Command lines of the verbs: help with examples, which the tests run, and arguments that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from yacs.config import CfgNode

from beit.config import config_from_arguments
from beit.preprocessing import Preprocessing

CONFIG_FLAGS = (
    "All flags of training work too: -cfg -data_path -dataset -output … -opts KEY VALUE (beit train --help)."
)


def verb_parser(verb: str, description: str | None, examples: Sequence[str]) -> argparse.ArgumentParser:
    """A parser whose help ends with examples."""
    return argparse.ArgumentParser(
        prog=f"python -m beit {verb}",
        description=description,
        epilog=examples_text(examples) if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def examples_text(examples: Sequence[str]) -> str:
    """The examples as the last part of a help text."""
    return "\n".join([f"example{'s' if len(examples) > 1 else ''}:", *(f"  {line}" for line in examples)])


def with_config(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, CfgNode]:
    """The parser's own arguments, and the config that all other arguments describe (the flags of training)."""
    own, rest = parser.parse_known_args(argv)
    return own, config_from_arguments(rest, program=parser.prog)


def add_preprocessing(parser: argparse.ArgumentParser) -> None:
    """Add flags for the preprocessing of weights that do not store theirs."""
    group = parser.add_argument_group("preprocessing, for weights that do not store theirs")
    group.add_argument("--mean", type=float, nargs=3, metavar="M", help="channel means, for pixels in [0, 1]")
    group.add_argument(
        "--std", type=float, nargs=3, metavar="S", help="channel deviations, for pixels in [0, 1]"
    )
    group.add_argument("--crop-pct", type=float, metavar="C", help="crop side / resized shorter side")
    group.add_argument("--interpolation", choices=("bicubic", "bilinear", "lanczos"), help="resize filter")


def preprocessing_from(given: argparse.Namespace) -> Preprocessing | None:
    """The preprocessing of the flags that `add_preprocessing` added; None if none of them was used."""
    if not any((given.mean, given.std, given.crop_pct, given.interpolation)):
        return None
    return Preprocessing(
        mean=tuple(given.mean) if given.mean else None,
        std=tuple(given.std) if given.std else None,
        crop_pct=given.crop_pct,
        interpolation=given.interpolation or "",
        source="command line",
    )
