"""The code of docs/notebook.ipynb runs, in order, with fewer epochs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.tiny import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; returns the value of its last line, which a notebook shows, or None."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "notebook", "exec"), names)
    return eval(compile(ast.Expression(last.value), "notebook", "eval"), names) if last else None


@pytest.mark.docs
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    shown = []
    for cell in CELLS:
        source = "".join(cell["source"])
        if "install" in cell["metadata"].get("tags", ()):
            assert source == '%pip install -q ".[cpu,demo]"'
            continue
        shown.append(run_cell(source.replace("EPOCHS = 45", "EPOCHS = 1"), names))
    assert names["EPOCHS"] == 1
    assert sum(isinstance(value, Figure) for value in shown) == 4
    assert 0 <= names["result"].metrics["top1"] <= 100
    assert names["answer"]["pred_class"] in "0123456789"
    assert Path("output/notebook/exported/export.json").is_file()


def test_the_notebook_has_no_outputs() -> None:
    """Outputs would be of another version than the code."""
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS)
