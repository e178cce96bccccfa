"""`python -m beit config`: print the resolved config of a run, or describe its keys."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from beit.config import dump
from beit.schema import SCHEMA
from beit.tools.arguments import CONFIG_FLAGS, verb_parser, with_config

EXAMPLES = (
    "python -m beit config -cfg=beit_base_patch16_224 -batch_size=64",
    "python -m beit config --keys 'TRAIN.*LR*'",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the config as YAML that `-cfg` reads, or keys with their defaults and descriptions."""
    parser = verb_parser("config", f"{__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES)
    parser.add_argument(
        "--keys", nargs="?", const="*", metavar="PATTERN", help="describe the matching keys, e.g. 'MODEL.*'"
    )
    given, config = with_config(parser, argv)
    if given.keys is None:
        print(dump(config), end="")
        return
    pattern = given.keys.upper()
    found = [key for key in SCHEMA if fnmatch.fnmatchcase(key, pattern) or pattern in key]
    if not found:
        raise ValueError(f"no key matches {given.keys!r}; a part of a name is enough, e.g. --keys CROP")
    for key in found:
        print(f"{key} = {SCHEMA[key].default!r}\n    {SCHEMA[key].meaning}")
