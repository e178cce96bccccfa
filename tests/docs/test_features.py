"""The table of features: every command, flag, key, function, argument and file in it exists."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import beit
from beit.flags import config_from_arguments
from beit.predict.classifier import Classifier
from beit.predict.image_index import ImageIndex
from tests.docs.pages import check_flags
from tests.tiny import ROOT

PAGE = ROOT / "docs" / "features.md"
ROWS = re.findall(r"^\| (?!feature)([^|]+) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
CODES = list(dict.fromkeys(code for _, here in ROWS for code in re.findall(r"`([^`]+)`", here)))
OBJECTS: dict[str, Any] = {"beit": beit, "model": beit.Beit, "predictor": Classifier}
"""Names at the start of calls -> the module, or the class of the object."""
NO_FILES = {"metrics.jsonl", "best.pdparams", "eval.json", "card.md", "BASE:", "POST /predict"}
"""What a run writes, a config has or a request is: no file of the repository."""


@pytest.mark.parametrize("name", [name for name, here in ROWS])
def test_every_row_says_what_to_type_or_why_it_is_left_out(name: str) -> None:
    (here,) = [here for other, here in ROWS if other == name]
    assert "`" in here or here.startswith(("left out: ", "by themselves")), here


@pytest.mark.parametrize("code", CODES)
def test_the_code_of_a_row_exists(code: str) -> None:
    if code.startswith("python -m paddle.distributed.launch") or code in NO_FILES:
        return
    if code.startswith("python -m beit "):
        check_flags(tuple(shlex.split(code)))
    elif code.startswith("python main_"):
        words = shlex.split(code)
        assert (ROOT / words[1]).is_file()
        config_from_arguments(words[2:])
    elif code.startswith("-"):
        words = shlex.split(code)
        config_from_arguments(words if words[0].startswith("-cfg") else ["-cfg=own_tiny", *words])
    elif code.startswith("sh "):
        assert (ROOT / code.split()[1]).is_file()
    elif re.match(r"(beit|model|predictor)\.|model\(", code):
        check_calls(ast.parse(code, mode="eval").body)
    else:
        assert (ROOT / code).is_file(), code


def check_calls(node: ast.expr) -> Any:
    """The object of an expression; its calls have arguments that the function takes. None where the result is not known."""
    if isinstance(node, ast.Name):
        return OBJECTS.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = check_calls(node.value)
        if inspect.ismodule(owner) and not hasattr(owner, node.attr):
            return importlib.import_module(f"{owner.__name__}.{node.attr}")
        if owner is Classifier and node.attr in Classifier.__annotations__:
            return None
        return None if owner is None else getattr(owner, node.attr)
    if isinstance(node, ast.Call):
        function = check_calls(node.func)
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            check_calls(argument)
        if function is None:
            return None
        bind(function, node)
        returned = {beit.open_index: ImageIndex, beit.build_tokenizer: None}
        return returned.get(function) if isinstance(function, Callable) else None  # type: ignore[arg-type]
    return None


def bind(function: Any, node: ast.Call) -> None:
    keywords = {keyword.arg: None for keyword in node.keywords}
    is_method = inspect.isfunction(function) and "." in function.__qualname__
    if inspect.isclass(function) and isinstance(node.func, ast.Name):  # model(images)
        function, is_method = function.forward, True
    given = [None] * (len(node.args) + is_method)
    inspect.signature(function).bind(*given, **keywords)


def test_a_row_with_a_mistake_fails() -> None:
    for code in ("beit.draw_cam('RUN')", "beit.no_such_function()", "beit.open_index('RUN').furthest(1)", "model.forward_outputs(images, states=[3])"):  # fmt: skip
        with pytest.raises((TypeError, AttributeError, ModuleNotFoundError)):
            check_calls(ast.parse(code, mode="eval").body)
    for code in (
        "-opts TRAIN.NO_SUCH_KEY 1",
        "python -m beit predict RUN photo.jpg --no-such-flag",
        "no_such_file.md",
    ):
        with pytest.raises((SystemExit, ValueError, AssertionError)):
            test_the_code_of_a_row_exists(code)
    assert Path("constraints.txt").name in CODES
