"""One line of the table of `beit doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Finding:
    """What was found.

    Args:
        part: group of the table.
        name: what was examined.
        value: result, with its unit.
        status: "ok", "note" (works, could be better) or "problem".
        advice: what to change; empty if there is nothing.
    """

    part: str
    name: str
    value: str
    status: Status = "ok"
    advice: str = ""


Check = Callable[[], Iterator[Finding]]


def findings_of(part: str, check: Check) -> Iterator[Finding]:
    """The findings of a check; an exception ends it and is a problem of its own, so that the other checks still run."""
    try:
        yield from check()
    except Exception as error:  # whatever fails here is what the user has to see
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        yield Finding(part, "failed", f"{type(error).__name__}: {lines[0] if lines else ''}", "problem")
