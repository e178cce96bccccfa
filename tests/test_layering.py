"""Imports inside the package go from higher to lower levels only."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "beit"

LEVELS: dict[str, int] = {
    "beit.config": 0,
    "beit.schema": 0,
    "beit.logging": 0,
    "beit.positions": 0,
    "beit.preprocessing": 0,
    "beit.files": 0,
    "beit.imagenet_classes": 0,
    "beit.figures": 0,
    "beit.cpu": 0,
    "beit.containers": 1,
    "beit.layers": 2,
    "beit.optim": 2,
    "beit.checkpoint": 2,
    "beit.parallel": 3,
    "beit.beit": 4,
    "beit.data": 4,
    "beit.models": 5,
    "beit.tasks": 6,
    "beit.zoo": 7,
    "beit.deploy": 7,
    "beit.predict": 8,
    "beit.train": 9,
    "beit.bench": 10,
    "beit.tools": 11,
    "beit.__main__": 12,
}
"""A module imports from lower levels and from its own package only. The longest matching prefix counts."""


def package(module: str) -> str:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in LEVELS:
            return ".".join(parts[:length])
    raise AssertionError(f"{module} has no level: add it to LEVELS")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def modules() -> dict[str, Path]:
    files = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in files
    }


def test_every_import_goes_to_a_lower_level_or_stays_in_its_package() -> None:
    known = modules()
    wrong = []
    for module, path in known.items():
        for imported in imports(path):
            if imported not in known:
                continue  # of another package, or a name inside a module
            own, other = package(module), package(imported)
            same_base = LEVELS[own] == LEVELS[other] == 0
            if own != other and LEVELS[other] >= LEVELS[own] and not same_base:
                wrong.append(f"{module} imports {imported}")
    assert wrong == []


def test_module_names_describe_the_content() -> None:
    assert not [
        path
        for path in PACKAGE.rglob("*.py")
        if path.stem in {"utils", "util", "misc", "common", "helper", "helpers"}
    ]


def test_files_stay_short() -> None:
    """More than 400 lines mean that a file does two things; tables of keys and of published files are exempt."""
    tables = {"schema.py", "table.py"}
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {
        str(path): length for path, length in lengths.items() if length > 400 and path.name not in tables
    } == {}


def test_no_test_file_imports_another() -> None:
    """Shared code is in tests/tiny.py, in a conftest.py, or in a file without tests."""
    wrong = [
        f"{path.relative_to(TESTS)} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in imports(path)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]
    assert wrong == []


def test_the_model_knows_nothing_of_threads_and_processors() -> None:
    files = [PACKAGE / "beit.py", *(PACKAGE / "layers").glob("*.py")]
    words = ("threading", "_slice(", "is_cpu_place", "ctypes", "beit.cpu")
    assert not [
        (path.name, word) for path in files for word in words if word in path.read_text(encoding="utf-8")
    ]
