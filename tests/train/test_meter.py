from __future__ import annotations

import io
from pathlib import Path

import paddle
import pytest

from beit.data.loader import Loader
from beit.data.sampler import TrainSampler
from beit.logging import RunLog
from beit.parallel.stop import StopVote
from beit.tasks import TASKS
from beit.train import meter
from beit.train.meter import Meter
from beit.train.state import Training
from tests.tiny import tiny_config, train_state, write_dataset


@pytest.fixture
def training(tmp_path: Path) -> Training:
    task = TASKS["classify"](tiny_config(write_dataset(tmp_path, train=4), tmp_path / "out"))
    dataset = task.dataset("train")
    assert dataset is not None
    return Training(
        **vars(train_state(task)),
        dataset=dataset,
        sampler=TrainSampler(4, batch_size=4),
        loader=Loader(dataset, num_workers=1),
        validation=None,
        log=RunLog(None, 0, stream=io.StringIO()),
        stop=StopVote(),
    )


def test_waiting_for_data_is_logged_and_warned_of_once(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter.time, "perf_counter", lambda: 10.0 * training.step)
    stream = io.StringIO()
    training.log = RunLog(None, 0, stream=stream)
    a_meter = Meter(training, 100, 0)

    def report(waited: float) -> tuple[str, str]:
        """The log line, and the warning, of a step of 10 seconds that waited for data so long."""
        stream.seek(0), stream.truncate()
        training.step += 1
        training.loader.wait_seconds += waited
        a_meter.add([{"loss": paddle.ones([])}], paddle.ones([]))
        a_meter.report(1e-3, 0.05)
        line, *warnings = stream.getvalue().splitlines()
        assert len(warnings) <= 1
        return line, "".join(warnings)

    line, warning = report(9.0)  # the workers are starting
    assert "data wait 90 %" in line and "0.4 images/s" in line and not warning
    line, warning = report(1.9)
    assert "data wait 19 %" in line and not warning
    line, warning = report(2.5)
    assert "data wait 25 %" in line
    assert "25 % of the time" in warning and "DATA.NUM_WORKERS (it is 1," in warning
    line, warning = report(5.0)
    assert "data wait 50 %" in line and not warning
