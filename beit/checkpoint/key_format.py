"""How tensor names, layout and wrapper of a publisher's files relate to the canonical form: a row of its table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from beit.checkpoint.canonical import NUMBER, SEGMENTATION_HEADS

# Name patterns: `{i}` and `{j}` stand for an index, `*` for any text; `!pattern` fits the names that `pattern` does not.
Rules = tuple[tuple[str, str], ...]
HEAD_RULES: Rules = tuple((f"{head}*", f"{head}*") for head in SEGMENTATION_HEADS)
"""Segmentation heads, which most publishers call by their canonical names."""
SEGMENTATION_RULES: Rules = (*HEAD_RULES, ("backbone.*", "*"))
QKV = "blocks.{i}.attn.qkv.weight"
QKV_BIAS = "blocks.{i}.attn.qkv.bias"
"""Names in most files of a BEiT, and in files of other vision transformers."""


@dataclass(frozen=True, kw_only=True)
class KeyFormat:
    """One kind of file of one publisher. `beit.checkpoint.translate` translates by it in both directions."""

    publisher: str
    kinds: tuple[str, ...]  # of `beit.checkpoint.canonical`; if there is only one, the file is of that kind
    # Recognition
    has: tuple[str, ...]  # patterns that must all occur, the first in a name that the rules translate
    lacks: tuple[str, ...] = ()  # patterns that must not occur; left out in writing
    recognized_by_layout: bool = False  # the names are ambiguous, the layout of Linear weights decides
    wrappers: tuple[str | None, ...] | None = (
        None  # the names are ambiguous, one of these keys holds the state
    )
    # Translation. Of the rules the first match counts, in both directions; drops take precedence over them.
    rules: Rules = (("*", "*"),)  # (publisher's name, canonical name)
    aliases: Rules = ()  # (other spelling, publisher's name), applied repeatedly before the rules when reading
    drops: Rules = ()  # (publisher's name, reason for leaving it out)
    layout: Literal["paddle", "torch"] = "torch"  # Linear weights are (in, out) or (out, in)
    untransposed: tuple[str, ...] = ()  # canonical names of exceptions, which are (in, out) in any layout
    splits_qkv: bool = False  # separate query, key and value Linears
    has_index_buffers: bool = False
    prefers_ema: bool = False  # the publisher's evaluation takes averaged weights if the file has them
    # Writing
    written: tuple[str, ...] | None = None  # kinds that are written; None for all
    wrapper: str | None = None  # key under which the publisher's files hold the state

    def leaves_out(self, name: str) -> bool:
        """Whether the publisher's models have no tensor of this canonical name, so that it is not written."""
        theirs = rename(name, reverse(self.rules)) or name
        return any(matches(pattern, theirs) for pattern in self.lacks)


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Regular expression of a name pattern, with groups `i`, `j` and, for the first `*`, `rest`."""
    if pattern.startswith("!"):
        return re.compile(f"(?!(?:{_compile(pattern[1:]).pattern})$).*")
    expression = re.escape(pattern).replace(r"\*", "(?P<rest>.*)", 1).replace(r"\*", ".*")
    return re.compile(re.sub(r"\\{([ij])\\}", rf"(?P<\1>{NUMBER})", expression))


def matches(pattern: str, name: str) -> bool:
    """Whether the whole of `name` fits `pattern`."""
    return _compile(pattern).fullmatch(name) is not None


def any_match(pattern: str, names: Iterable[str]) -> bool:
    """Whether at least one name fits `pattern`."""
    return any(matches(pattern, name) for name in names)


def rename(name: str, rules: Rules) -> str | None:
    """`name` by the first rule whose left side fits; None if none does."""
    for source, target in rules:
        match = _compile(source).fullmatch(name)
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
