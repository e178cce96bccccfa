"""What a publisher's table says: how its names, layouts and wrappers relate to the canonical form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

# (name of one side, name of the other). `{i}` and `{j}` stand for an index, `*` for any rest.
Rules = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of checkpoint files: a row of facts, read by `beit.checkpoint.dialects` in both directions."""

    publisher: str
    kinds: tuple[str, ...]
    # Recognition: name patterns that must all occur, or must not; the layout and the wrapper, where names do not tell.
    has: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    recognized_by_layout: bool = False
    wrappers: tuple[str | None, ...] | None = None
    # Meaning.
    rules: Rules = (("*", "*"),)  # (publisher's name, canonical name); the first that fits counts, both ways
    aliases: Rules = ()  # (other spelling, publisher's name), applied before the rules when reading
    drops: Rules = ()  # (publisher's name, why it is left out)
    layout: Literal["paddle", "torch"] = "torch"
    splits_qkv: bool = False  # separate query, key and value Linears
    has_index_buffers: bool = False
    # Writing.
    writes: bool = True
    wrapper: str | None = None  # key under which the publisher's files hold the state
    prefers_ema: bool = False  # what the publisher's own evaluation takes when a file holds both


@cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Regular expression of a name pattern, with groups `i`, `j` and, for the first `*`, `rest`."""
    expression = re.escape(pattern).replace(r"\*", "(?P<rest>.*)", 1).replace(r"\*", ".*")
    return re.compile(re.sub(r"\\{([ij])\\}", r"(?P<\1>\\d+)", expression))


def matches(pattern: str, name: str) -> bool:
    """Whether `name` fits `pattern` from end to end."""
    return compile_pattern(pattern).fullmatch(name) is not None


def any_match(pattern: str, names: Iterable[str]) -> bool:
    """Whether some name fits."""
    return any(matches(pattern, name) for name in names)


def rename(name: str, rules: Rules) -> str | None:
    """`name` by the first rule whose left side fits; None if none does."""
    for source, target in rules:
        match = compile_pattern(source).fullmatch(name)
        if match:
            groups = match.groupdict()
            for group, placeholder in (("i", "{i}"), ("j", "{j}"), ("rest", "*")):
                target = target.replace(placeholder, groups.get(group) or "")
            return target
    return None


def reverse(rules: Rules) -> Rules:
    """The same rules from right to left."""
    return tuple((target, source) for source, target in rules)


def under(prefix: str, rules: Rules, canonical_prefix: str = "") -> Rules:
    """The rules with a prefix on the publisher's side, and optionally one on the canonical side."""
    return tuple((prefix + source, canonical_prefix + target) for source, target in rules)
