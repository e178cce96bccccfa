"""The table of the fault suite, and the end of every process a test has started."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.faults import harness
from tests.faults.harness import Row
from tests.tiny import write_dataset

ROWS = pytest.StashKey[list[Row]]()
FAILURE = pytest.StashKey[str]()


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
        item.stash[FAILURE] = lines[0] if lines else "failed"
    if report.skipped and isinstance(report.longrepr, tuple):
        item.stash[FAILURE] = report.longrepr[2]
    return report


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row of a test: it says what is injected and expected first, and what was seen at the end."""
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
    terminalreporter.write_line("\n".join(table(rows)))


def table(rows: list[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = ["| family | fault | expected | seen | seconds to the message |", "|---|---|---|---|---|"]
    for row in rows:
        seen = f"FAILED: {row.failure}" if row.failure else row.seen
        seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
        seen = re.sub(r"/\S*/pytest-\d+/[^/ ]+", "…", seen)
        cells = [row.family, row.fault, row.expected, seen, seconds]
        lines.append(
            "| " + " | ".join(" ".join(cell.split()).replace("|", "/")[:240] for cell in cells) + " |"
        )
    bad = sum(bool(row.failure) for row in rows)
    return [*lines, "", f"{len(rows) - bad} of {len(rows)} rows as expected"]
