"""`python -m beit VERB …`, also installed as `beit`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from beit.cpu import before_paddle
from beit.parallel.signals import exit_on_stop_signals

VERBS: dict[str, tuple[str, str]] = {
    "predict": ("beit.tools.predict", "say what a model sees in pictures, folders of them, patterns"),
    "train": ("beit.tools.train", "train what a config describes"),
    "evaluate": ("beit.tools.evaluate", "measure weights on the validation images"),
    "check": ("beit.tools.check", "look at data and config before a long run: every picture, one dry step"),
    "make-lists": ("beit.tools.make_lists", "write list files for a tree of class folders"),
    "config": ("beit.tools.config", "print a resolved config, or what the keys mean"),
    "report": ("beit.tools.report", "count parameters, multiply-adds and memory of a config"),
    "visualize": (
        "beit.tools.visualize",
        "draw attention, predictions, curves, augmentation, schedules, tokens",
    ),
    "bench": ("beit.tools.bench", "time this package against the peers that are installed"),
    "convert": ("beit.tools.convert", "rewrite a checkpoint of any publisher in the form of another"),
    "export": ("beit.tools.export", "write a model as a static graph or ONNX, compared before it is left"),
    "serve": ("beit.tools.serve", "a page in the browser: drop a picture, see what the model says"),
}
"""Verb -> module with `main(argv)`, whose result is the exit status (None: 0), and what it does."""

ALIASES = {"visualise": "visualize"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb with its arguments; exit status (2 for a mistake of the user, said in one line)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {verb:10} {meaning}" for verb, (_, meaning) in VERBS.items()]
        print(
            "\n".join(
                ["usage: python -m beit VERB …", "", *lines, "", "python -m beit VERB --help says more."]
            )
        )
        return 0 if words else 2
    verb = ALIASES.get(words[0], words[0])
    if verb not in VERBS:
        print(f"error: unknown verb {words[0]!r}; there are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    before_paddle()
    with exit_on_stop_signals():
        module = importlib.import_module(VERBS[verb][0])
    try:
        return module.main(words[1:]) or 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
