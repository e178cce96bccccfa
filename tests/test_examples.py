"""The scripts in `examples/`: what is interrupted goes on with the next call."""

from __future__ import annotations

import importlib.util
import os
import signal

import pytest

from beit.parallel.signals import restored_handlers
from beit.parallel.stop import StopVote
from beit.train.state import StoppedError
from tests.tiny import ROOT, TINY, write_dataset


@pytest.fixture
def digits():
    """`examples/pretrain_digits.py` as a module."""
    spec = importlib.util.spec_from_file_location("pretrain_digits", ROOT / "examples/pretrain_digits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_interrupted_run_is_continued(digits, tmp_path, monkeypatch):
    keys = {key.replace("__", "."): value for key, value in TINY.items()}
    keys["DATA.DATA_PATH"] = str(write_dataset(tmp_path / "data"))
    with monkeypatch.context() as patch, restored_handlers(), pytest.raises(StoppedError):
        patch.setattr(StopVote, "passed", lambda vote: os.kill(os.getpid(), signal.SIGTERM) or vote.requested)
        digits.train(tmp_path / "run", keys)
    metrics = digits.train(tmp_path / "run", keys)
    assert metrics["count"] == 10
    assert "continue" in (tmp_path / "run" / "log.txt").read_text()
    monkeypatch.setattr(digits, "run", None)
    assert digits.train(tmp_path / "run", keys) == metrics


def test_interrupted_data_are_written_again(digits, tmp_path, monkeypatch):
    def interrupt(images):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(digits, "describe_patches", interrupt)
        digits.write_digits(tmp_path)
    assert not (tmp_path / "all" / "val_list.txt").exists()
    digits.write_digits(tmp_path)
    for folder, count in (("all", digits.TRAIN), ("tenth", 140)):
        assert len((tmp_path / folder / "train_list.txt").read_text().splitlines()) == count
    assert (tmp_path / "all" / "val_list.txt").is_file() and (tmp_path / "features" / "val.npy").is_file()
