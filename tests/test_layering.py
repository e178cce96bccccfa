"""The structure of the package: imports go from higher to lower levels only, nothing is dead, everything is described."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "beit"

LEVELS: dict[str, int] = {
    "beit.config": 0,
    "beit.config_files": 0,
    "beit.schema": 0,
    "beit.logging": 0,
    "beit.positions": 0,
    "beit.preprocessing": 0,
    "beit.files": 0,
    "beit.printable": 0,
    "beit.streams": 0,
    "beit.text_files": 0,
    "beit.tables": 0,
    "beit.imagenet_classes": 0,
    "beit.figures": 0,
    "beit.dashboards": 0,
    "beit.fonts": 0,
    "beit.cpu": 0,
    "beit.warning_lines": 0,
    "beit.install": 0,
    "beit.version": 0,
    "beit.containers": 1,
    "beit.metadata": 2,
    "beit.optim": 2,
    "beit.checkpoint": 3,
    "beit.layers": 4,
    "beit.parallel": 4,
    "beit.zoo": 4,
    "beit.flags": 5,
    "beit.beit": 5,
    "beit.card": 5,
    "beit.data": 5,
    "beit.models": 6,
    "beit.tasks": 7,
    "beit.deploy": 8,
    "beit.predict": 9,
    "beit.passl": 9,
    "beit.transformers": 10,
    "beit.train": 11,
    "beit.bench": 12,
    "beit.doctor": 12,
    "beit.tools": 13,
    "beit.__main__": 14,
}
"""Of packages and of the modules beside them. A module imports from lower levels and from its own package only."""


def package(module: str) -> str:
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parse(path)):
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
    assert LEVELS.keys() == {package(module) for module in known}
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


def test_no_modules_import_each_other_in_a_circle() -> None:
    known = modules()
    below = {}
    for module, path in known.items():
        found = imports(path) & known.keys() - {module}
        # `from package import module` runs the package's `__init__` too; what counts is the module.
        below[module] = {name for name in found if not any(other.startswith(f"{name}.") for other in found)}
    while leaves := {module for module, imported in below.items() if not imported & below.keys()}:
        for module in leaves:
            del below[module]
    assert sorted(below) == []


def test_every_public_function_has_a_docstring() -> None:
    """A method that overrides another one has that one's."""
    classes = [
        node
        for path in modules().values()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef)
    ]
    described = {
        name for node in classes for name, function in functions(node) if ast.get_docstring(function)
    }
    missing = []
    for module, path in modules().items():
        tree = parse(path)
        public = [
            node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        ]
        for owner in [tree, *public]:
            overrides = described if isinstance(owner, ast.ClassDef) and owner.bases else set()
            missing += [
                f"{module}.{name}"
                for name, function in functions(owner)
                if not name.startswith("_") and name not in overrides and not ast.get_docstring(function)
            ]
    assert not missing, missing


def test_no_function_is_used_by_tests_only() -> None:
    """Each name occurs twice in the code, or in a page of the documentation, or is a hook that a library calls."""
    hooks = {"reducer_override", "extra_repr"}
    root = PACKAGE.parent
    code = [path for folder in (PACKAGE, root / "examples") for path in folder.rglob("*.py")] + [
        *root.glob("*.py")
    ]
    counts = Counter(word for path in code for word in re.findall(r"\w+", path.read_text(encoding="utf-8")))
    pages = [root / "README.md", *(root / "docs").glob("*.md")]
    documented = {word for page in pages for word in re.findall(r"\w+", page.read_text(encoding="utf-8"))}
    unused = [
        f"{module}.{node.name}"
        for module, path in modules().items()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and counts[node.name] == 1
        and not node.name.startswith("__")
        and node.name not in documented | hooks
    ]
    assert unused == []


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(owner: ast.Module | ast.ClassDef) -> list[tuple[str, ast.FunctionDef]]:
    return [(node.name, node) for node in owner.body if isinstance(node, ast.FunctionDef)]
