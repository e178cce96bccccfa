"""The lock of an output folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from beit.train.output import output_folder
from tests.tiny import tiny_config


@pytest.mark.parametrize("keys", [{}, {"EVAL": True}, {"MODEL__RESUME": "auto"}])
def test_a_folder_takes_one_run_at_a_time(tmp_path: Path, keys: dict[str, object]) -> None:
    config = tiny_config(tmp_path, tmp_path / "run", **keys)
    with output_folder(config) as folder:
        assert folder == tmp_path / "run"
        with (
            pytest.raises(
                ValueError,
                match="another run is writing into .*run; wait for its end or choose another -output",
            ),
            output_folder(config),
        ):
            pass
    with output_folder(config):
        pass


def test_file_systems_without_locks_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with output_folder(tiny_config(tmp_path, tmp_path / "run")) as folder:
        assert (folder / "config.yaml").exists()
