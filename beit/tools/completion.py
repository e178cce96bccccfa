"""`python -m beit completion SHELL`: a script that completes verbs, flags and file names in a shell.

For bash: python -m beit completion bash > ~/.local/share/bash-completion/completions/beit
For zsh: python -m beit completion zsh > FOLDER/_beit, with FOLDER in $fpath
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from beit.flags import Parser
from beit.tools import VERBS
from beit.tools.arguments import verb_parser

EXAMPLES = ("python -m beit completion bash > beit.bash",)
_SHELLS = ("bash", "zsh", "tcsh")
_NO_SHTAB = 'shell completion needs shtab, which is not installed: pip install "beit-paddle[completion]"'


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("completion", __doc__, EXAMPLES)
    parser.add_argument("shell", choices=_SHELLS, metavar="SHELL", help=", ".join(_SHELLS))
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the script."""
    given = build_parser().parse_args(argv)
    print(script(given.shell))


def script(shell: str) -> str:
    """The completion script.

    Args:
        shell: bash, zsh or tcsh.

    Raises:
        ValueError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ValueError(_NO_SHTAB) from error
    root = argparse.ArgumentParser("beit")
    subparsers = root.add_subparsers()
    for verb, (module, description) in VERBS.items():
        own = importlib.import_module(module).build_parser()
        _complete_files(own, shtab.FILE)
        subparsers.add_parser(
            verb, parents=[own], add_help=False, help=description, conflict_handler="resolve"
        )
    return shtab.complete(root, shell)


def _complete_files(parser: argparse.ArgumentParser, rule: Any) -> None:
    """Complete file names for every argument that takes a value without choices."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                _complete_files(own, rule)
        elif action.nargs != 0 and action.choices is None and action.type is None:
            action.complete = rule  # type: ignore[attr-defined]  # read by shtab
