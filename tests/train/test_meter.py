from __future__ import annotations

from types import SimpleNamespace

import paddle
import pytest

from beit.train import meter
from beit.train.meter import Meter


class Run:
    """What a meter asks of a run; each interval is to take 10 seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.step = 0.0, 0
        self.lines: list[str] = []
        self.loader = SimpleNamespace(wait_seconds=0.0, num_workers=3)
        self.sampler = SimpleNamespace(step_size=4, steps_per_epoch=100)
        self.dataset = Images()
        self.scaler = SimpleNamespace(is_enable=lambda: False)
        config = SimpleNamespace(
            TRAIN=SimpleNamespace(ACCUM_ITER=1), DATA=SimpleNamespace(MAX_BAD_FRACTION=0.01)
        )
        self.config = config
        self.task = SimpleNamespace(health_warnings=lambda means, is_warm: [])
        self.log = SimpleNamespace(scalars=lambda *_: None, text=self.lines.append)
        monkeypatch.setattr(meter.time, "perf_counter", lambda: self.now)
        self.meter = Meter(self, 100, 0)

    def interval(self, waited: float) -> list[str]:
        """The lines after 10 seconds of which `waited` passed without data."""
        self.lines.clear()
        self.step, self.now = self.step + 1, self.now + 10.0
        self.loader.wait_seconds += waited
        self.meter.add([{"loss": paddle.ones([])}], paddle.ones([]))
        self.meter.report(1e-3, 0.05)
        return list(self.lines)


class Images:
    def unreadable(self) -> set[str]:
        return set()

    def __len__(self) -> int:
        return 4


def warnings(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("warning")]


def test_waiting_for_data_is_in_each_line_and_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch)
    lines = run.interval(9.0)  # the workers are starting
    assert "data wait 90 %" in lines[0] and "0.4 images/s" in lines[0] and not warnings(lines)
    lines = run.interval(1.9)
    assert "data wait 19 %" in lines[0] and not warnings(lines)
    lines = run.interval(2.5)
    assert "data wait 25 %" in lines[0]
    (warning,) = warnings(lines)
    assert "25 % of the time" in warning and "DATA.NUM_WORKERS (it is 3," in warning
    lines = run.interval(5.0)
    assert "data wait 50 %" in lines[0] and not warnings(lines)
