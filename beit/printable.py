"""Untrusted text made safe to print, and the number of terminal columns that a text takes."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

# Control characters but the tab, line and paragraph separators, marks that reorder the text around them, and surrogates,
# which cannot be encoded. The joiners of Persian, Hindi and emoji stay.
_UNPRINTABLE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text on one line, with control characters as escapes (`\\x1b`), which have no effect on a terminal."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def printable_lines(text: str) -> str:
    """The same for a text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_json(value: Any) -> str:
    """JSON in which these characters are JSON escapes, so that readers get the original text.

    Raises:
        ValueError: the value holds a NaN or an infinity, which JSON cannot represent.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return "\n".join(
        _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", line) for line in text.split("\n")
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question after the known name nearest to a wrong one; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else ""


def text_width(text: str) -> int:
    """Columns of a terminal that a text takes: two for each Chinese, Japanese or Korean character, none for accents that
    are characters of their own."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(unicodedata.combining(character) > 0 for character in text)
