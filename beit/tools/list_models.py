"""`python -m beit list-models`: the published checkpoints whose names match a pattern."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from beit.flags import Parser
from beit.logging import format_table
from beit.tools.arguments import verb_parser
from beit.zoo import list_models, published

EXAMPLES = (
    "python -m beit list-models 'beitv2_*'",
    "python -m beit list-models '*ade20k' --json",
)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("list-models", __doc__, EXAMPLES)
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="shell pattern, in quotes")
    parser.add_argument("--json", action="store_true", help="print JSON, with the address and the license")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table or a JSON list."""
    given = build_parser().parse_args(argv)
    entries = [published(name) for name in list_models(given.pattern)]
    if not entries:
        raise ValueError(
            f"no published checkpoint matches {given.pattern!r}; beit list-models prints all names"
        )
    if given.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    rows = [
        (
            entry.name,
            entry.publisher,
            entry.kind,
            f"{entry.image_size}",
            "  ".join(f"{metric} {value:g}" for metric, value in entry.metrics.items()),
        )
        for entry in entries
    ]
    print(format_table([("name", "publisher", "kind", "pixels", "published"), *rows], left=5))
