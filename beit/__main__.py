"""`python -m beit VERB …`, also installed as `beit`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from beit.cpu import before_paddle
from beit.install import require_paddle
from beit.parallel.signals import exit_on_stop_signals

VERBS: dict[str, tuple[str, str]] = {
    "predict": ("beit.tools.predict", "predict images, folders of images, patterns"),
    "train": ("beit.tools.train", "train a model by a config"),
    "evaluate": ("beit.tools.evaluate", "evaluate weights on the validation images"),
    "check": ("beit.tools.check", "check data and config before a long run: all images, one dry step"),
    "make-lists": ("beit.tools.make_lists", "write list files for a tree of class folders"),
    "config": ("beit.tools.config", "print a resolved config, or describe its keys"),
    "report": ("beit.tools.report", "count parameters, multiply-adds and memory of a config"),
    "visualize": (
        "beit.tools.visualize",
        "draw attention, predictions, curves, augmentation, schedules, tokens",
    ),
    "bench": ("beit.tools.bench", "compare the speed with that of other installed packages"),
    "convert": ("beit.tools.convert", "convert a checkpoint to the format of another publisher"),
    "export": (
        "beit.tools.export",
        "write a model as a static graph or ONNX, after comparing it with the model",
    ),
    "serve": ("beit.tools.serve", "open a web page that predicts the images dropped on it"),
}
"""Verb -> module with `main(argv)`, which returns the exit status (None: 0), and a short description."""

ALIASES = {"visualise": "visualize"}
"""Other spelling of a verb -> verb."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb with its arguments; returns the exit status, 2 after a mistake of the user, which one line describes."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {verb:10} {description}" for verb, (_, description) in VERBS.items()]
        print(
            "\n".join(["usage: python -m beit VERB …", "", *lines, "", "Flags: python -m beit VERB --help"])
        )
        return 0 if words else 2
    verb = ALIASES.get(words[0], words[0])
    if verb not in VERBS:
        print(f"error: unknown verb {words[0]!r}; there are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    require_paddle()
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
