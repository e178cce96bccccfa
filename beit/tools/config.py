"""`python -m beit config`: print the resolved config of a run, or describe its keys."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from beit.config import dump
from beit.flags import Parser, config_from
from beit.schema import SCHEMA
from beit.tools.arguments import config_parser

EXAMPLES = (
    "python -m beit config -cfg=beit_base_patch16_224 -batch_size=64",
    "python -m beit config --keys 'TRAIN.*LR*'",
)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = config_parser("config", __doc__, EXAMPLES)
    parser.add_argument(
        "--keys", nargs="?", const="*", metavar="PATTERN", help="describe the matching keys, e.g. 'MODEL.*'"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the config as YAML that `-cfg` reads, or keys with their defaults and descriptions."""
    given = build_parser().parse_args(argv)
    config = config_from(given)
    if given.keys is None:
        print(dump(config), end="")
        return
    pattern = given.keys.upper()
    found = [key for key in SCHEMA if fnmatch.fnmatchcase(key, pattern) or pattern in key]
    if not found:
        raise ValueError(f"no key matches {given.keys!r}; a part of a name is enough, e.g. --keys CROP")
    for key in found:
        print(f"{key} = {SCHEMA[key].default!r}\n    {SCHEMA[key].meaning}")
