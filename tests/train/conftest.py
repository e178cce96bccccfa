"""The data of the runs in these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny import write_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 10 validation images of three classes, in a folder that the tests of a file share."""
    return write_dataset(tmp_path_factory.mktemp("data"))
