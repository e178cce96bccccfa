"""Imports inside the package go down only (the floors of the design)."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "beit"

FLOORS: dict[str, float] = {
    "beit.schema": 0,
    "beit.config": 0,
    "beit.startup": 0,
    "beit.cpu_threads": 0,
    "beit.distributed": 0,
    "beit.logging": 0,
    "beit.signals": 0,
    "beit.watchdog": 0,
    "beit.layers": 1.5,  # running at another image size resizes tables as loading does (checkpoint/resize.py)
    "beit.optim": 1,
    "beit.sharding": 1.5,
    "beit.checkpoint": 1,
    "beit.losses": 1,
    "beit.metrics": 1,
    "beit.beit": 2,
    "beit.data": 2,
    "beit.models": 3,
    "beit.published": 2,
    "beit.zoo": 3.3,
    "beit.tasks": 4,
    "beit.predict": 4.5,
    "beit.engine": 5,
    "beit.meter": 4.9,
    "beit.deploy": 4.8,
    "beit.resume": 5.5,
    "beit.output": 5.7,
    "beit.run": 6,
    "beit.tools": 6.5,
    "beit.bench": 6.6,
    "beit.tools.bench": 6.7,
    "beit.__main__": 7,
}
"""Longest matching prefix wins. Files of one room may import each other."""


def room(module: str) -> str:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOORS:
            return ".".join(parts[:length])
    raise AssertionError(f"{module} has no floor: add it to FLOORS")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "beit"}


def modules() -> dict[str, Path]:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def test_every_import_goes_down_or_stays_in_its_room() -> None:
    known = modules()
    wrong = []
    for module, path in known.items():
        for imported in imports(path):
            if imported not in known:
                continue  # a name inside a module
            own, other = room(module), room(imported)
            if own != other and FLOORS[other] >= FLOORS[own] and not (FLOORS[own] == FLOORS[other] == 0):
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_no_room_is_named_after_nothing() -> None:
    assert not [
        path
        for path in PACKAGE.rglob("*.py")
        if path.stem in {"utils", "util", "misc", "common", "helper", "helpers"}
    ]


def test_files_stay_short() -> None:
    """400 lines means that a second noun moved in; tables of keys and of published files are one noun."""
    tables = {"schema.py", "published.py"}
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {
        str(path): length for path, length in lengths.items() if length > 400 and path.name not in tables
    } == {}
