"""Small files that would crash the interpreter, never end or fill the memory end in one line, within the promised memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.hostile_files import HOSTILE, LimitedReader, limited_reader


@pytest.fixture(scope="module")
def reader() -> Iterator[LimitedReader]:
    with limited_reader() as found:
        yield found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_line_within_the_promised_memory(
    tmp_path: Path, reader: LimitedReader, name: str
) -> None:
    make, expected = HOSTILE[name]
    path = tmp_path / "hostile"
    path.write_bytes(make())
    outcome = reader.outcome(path)
    print(f"{name}: {outcome[:200]}")
    assert re.search(expected, outcome) and len(outcome) < 1000, outcome[:1000]
