"""`python -m beit VERB …`, also installed as `beit`."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import traceback
from collections.abc import Sequence

from beit.cpu import before_paddle
from beit.install import paddle_version, require_paddle
from beit.parallel.signals import exit_on_stop_signals
from beit.printable import did_you_mean, printable_lines
from beit.tools import ALIASES, VERBS
from beit.version import VERSION
from beit.warning_lines import show_as_lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb with its arguments; returns the exit status.

    It is 2 after a mistake of the user and 1 where the machine failed; one line describes either, as in `beit.train.entry`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["help"], ["--help"], ["-h"]):
        if not words[1:]:
            print(_usage())
            return 0
        words = [words[1], "--help"]
    if not words:
        print(_usage())
        return 2
    if words[0] in ("version", "--version", "-V"):
        paddle = paddle_version() or "not installed"
        print(f"beit {VERSION}, Paddle {paddle}, Python {platform.python_version()}")
        return 0
    verb = ALIASES.get(words[0], words[0]).replace("_", "-")
    if verb not in VERBS:
        hint = did_you_mean(verb, [*VERBS, *ALIASES]) or f"there are {', '.join(VERBS)}"
        print(f"error: unknown verb {words[0]!r}; {hint}", file=sys.stderr)
        return 2
    require_paddle()
    before_paddle()
    show_as_lines()
    with exit_on_stop_signals():
        module = importlib.import_module(VERBS[verb][0])
        from beit.data.loader import WorkerError
    try:
        return module.main(words[1:]) or 0
    except (ValueError, OSError, FloatingPointError, WorkerError) as error:
        if os.environ.get("BEIT_DEBUG"):
            traceback.print_exc()
        print(printable_lines(f"error: {error}"), file=sys.stderr)
        return 1 if isinstance(error, WorkerError) else 2


def _usage() -> str:
    lines = [f"  {verb:12} {description}" for verb, (_, description) in VERBS.items()]
    end = "Flags of a verb: beit help VERB. They take one dash or two. beit --version prints the versions."
    return "\n".join(["usage: beit VERB … (or: python -m beit VERB …)", "", *lines, "", end])


if __name__ == "__main__":
    sys.exit(main())
