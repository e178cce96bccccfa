"""The results of the fault suite as Markdown (docs/faults.md); ends every process that a test has started."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.harness import Row
from tests.tiny import write_dataset

ROWS = pytest.StashKey[list[Row]]()
FAILURE = pytest.StashKey[str]()
WIDTH = 120


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and FAILURE not in item.stash:
        lines = str(call.excinfo.value if call.excinfo else report.longrepr).splitlines()
        item.stash[FAILURE] = next((line for line in lines if line.strip()), "failed")
    if report.skipped and isinstance(report.longrepr, tuple):
        item.stash[FAILURE] = report.longrepr[2]
    return report


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row of a test, which fills in the fault and the expectation first and the observed result at the end."""
    family = request.path.stem.removeprefix("test_")
    line = Row(family, fault=request.node.name)
    request.config.stash[ROWS].append(line)
    yield line
    line.failure = request.node.stash.get(FAILURE, "")


@pytest.fixture(autouse=True)
def _no_process_outlives_its_test() -> Iterator[None]:
    first = harness.start.count  # type: ignore[attr-defined]
    yield
    for number in range(first + 1, harness.start.count + 1):  # type: ignore[attr-defined]
        harness.kill_all(f"{harness.os.getpid()}-{number}")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """88 training and 11 validation images of three classes."""
    return write_dataset(tmp_path_factory.mktemp("data"), train=88, val=11)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    terminalreporter.section("faults")
    terminalreporter.write_line("\n".join(listing(rows)))


def listing(rows: list[Row]) -> list[str]:
    """The rows as Markdown: a section per family, a list per expectation, lines of at most `WIDTH` characters."""
    lines = []
    for family, members in itertools.groupby(rows, key=lambda row: row.family):
        lines += [f"### {family}", ""]
        for expected, group in itertools.groupby(members, key=lambda row: row.expected):
            lines += [*_wrapped(f"Expected: {expected}", ""), ""]
            lines += [line for row in group for line in _wrapped(_item(row), "  ")]
            lines += [""]
    bad = sum(bool(row.failure) for row in rows)
    return [*lines, f"{len(rows) - bad} of {len(rows)} rows as expected"]


def _item(row: Row) -> str:
    seen = f"FAILED: {row.failure}" if row.failure else row.seen
    seen = re.sub(r"/\S*/pytest-\d+/[^/ ]+", "…", " ".join(seen.split())[:240])
    seconds = "" if row.seconds is None else f" ({row.seconds:.1f} s)"
    return f"* **{row.fault}**{seconds}: {seen}"


def _wrapped(text: str, indent: str) -> list[str]:
    text = text.replace("<", "&lt;")
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False)
