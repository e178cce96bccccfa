"""The errors of checkpoint files, and text of a file made fit for a message."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

_SHOWN_CHARACTERS = 80


class CheckpointError(ValueError):
    """The file is not a readable checkpoint; the message says in one line what it is and what to do."""


class UnsafeFileError(CheckpointError):
    """The file names functions that could run code when other programs load it; none was imported or called."""


def listed(names: Collection[str], limit: int = 6) -> str:
    """The first names with commas, each as `shown`, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, islice(names, limit))) + more


def shown(text: str) -> str:
    """The beginning of a name that a file contains, for a message: what is not printable is written as escapes.

    Unlike in `printable`, which keeps tabs and the joiners of class names in Persian or Hindi, nothing invisible stays.
    """
    escaped = (char if char.isprintable() else ascii(char)[1:-1] for char in text[:_SHOWN_CHARACTERS])
    return "".join(escaped) + ("…" if len(text) > _SHOWN_CHARACTERS else "")
