"""The lock of an output folder."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from beit.config import dump
from beit.metadata.files import RUN_WEIGHTS, is_run_file
from beit.train.output import output_folder, write_config
from beit.train.resume import ADAPTER, BEST, BEST_ADAPTER, LATEST, MODEL
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


def test_a_run_that_cannot_write_its_config_releases_the_folder(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, tmp_path / "run", EVAL=True)
    (tmp_path / "run" / "eval_config.yaml").mkdir(parents=True)
    with pytest.raises(OSError, match="the output folder cannot be written"), output_folder(config):
        pass
    (tmp_path / "run" / "eval_config.yaml").rmdir()
    with output_folder(config):  # the same process, such as a notebook, tries again
        pass


def test_the_files_of_a_run_are_known_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    names = (LATEST, BEST, MODEL, ADAPTER, BEST_ADAPTER, "epoch_0012.pdparams")
    assert all(is_run_file(tmp_path / name) for name in names) and {LATEST, BEST, MODEL} == set(RUN_WEIGHTS)
    assert not is_run_file(tmp_path / "average.pdparams")


def test_file_systems_without_locks_are_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with output_folder(tiny_config(tmp_path, tmp_path / "run")) as folder:
        assert (folder / "config.yaml").exists()


def test_the_config_of_a_run_stays_until_it_is_continued(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with output_folder(tiny_config(tmp_path, folder)):
        pass
    (folder / "latest.pdparams").write_bytes(b"")
    before = (folder / "config.yaml").read_text()
    config = tiny_config(tmp_path, folder, MODEL__RESUME="auto", TRAIN__BASE_LR=0.5)
    with output_folder(config):
        assert (folder / "config.yaml").read_text() == before
        write_config(config)
    assert (folder / "config.yaml").read_text() == dump(config)
    with output_folder(tiny_config(tmp_path, folder, EVAL=True)):
        assert (folder / "config.yaml").read_text() == dump(config) and (folder / "eval_config.yaml").exists()
    assert not list(folder.glob(".*"))


def test_the_config_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    config = tiny_config(tmp_path, folder)
    with output_folder(config):
        pass

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OSError, match=r"cannot write .*config.yaml: No space left.*the previous file is untouched"
    ):
        write_config(tiny_config(tmp_path, folder, TRAIN__BASE_LR=0.5))
    assert (folder / "config.yaml").read_text() == dump(config)


@pytest.mark.parametrize(
    "name", ["latest.pdparams", "epoch_0003.pdparams", "best.pdparams", "model.pdparams"]
)
def test_a_run_does_not_overwrite_another_one(tmp_path: Path, name: str) -> None:
    folder, other = tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    for path in (folder, other):
        (path / name).write_bytes(b"")
    with (
        pytest.raises(ValueError, match="run already holds a training run; continue it with -resume auto"),
        output_folder(tiny_config(tmp_path, folder)),
    ):
        pass
    with (
        pytest.raises(
            ValueError, match="run holds a training run of its own, which -resume .* would overwrite"
        ),
        output_folder(tiny_config(tmp_path, folder, MODEL__RESUME=str(other / name))),
    ):
        pass
    with output_folder(tiny_config(tmp_path, folder, MODEL__RESUME=str(folder / "." / name))):
        pass
    with output_folder(tiny_config(tmp_path, tmp_path / "new", MODEL__RESUME=str(other / name))):
        pass
    with output_folder(tiny_config(tmp_path, folder, EVAL=True)):
        pass
    auto = output_folder(tiny_config(tmp_path, folder, MODEL__RESUME="auto"))
    if name in ("best.pdparams", "model.pdparams"):
        with pytest.raises(ValueError, match="holds the weights of a run but no training state"), auto:
            pass
    else:
        with auto:
            pass


@pytest.mark.parametrize("keys", [{}, {"EVAL": True}])
def test_the_folder_of_the_data_is_no_output_folder(tmp_path: Path, keys: dict[str, object]) -> None:
    """A run writes class names and colors in the order of its head."""
    config = tiny_config(tmp_path, tmp_path / ".", **keys)
    with (
        pytest.raises(ValueError, match="is the folder of the data.*choose another -output"),
        output_folder(config),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_the_user_in_the_output_folder_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "run" / "config.yaml"
    file.parent.mkdir()
    config = tiny_config(tmp_path, tmp_path / "run")
    for text in ("# notes\nMODEL:\n  NUM_CLASSES: 3\n", "[\n"):
        file.write_text(text)
        with (
            pytest.raises(
                ValueError, match=r"config\.yaml was not written by a run, and would be overwritten"
            ),
            output_folder(config),
        ):
            pass
        assert file.read_text() == text
    with output_folder(tiny_config(tmp_path, tmp_path / "run", EVAL=True)):  # writes eval_config.yaml
        pass
    (tmp_path / "run" / "log.txt").touch()  # a run that ended before its first checkpoint
    with output_folder(config):
        pass
