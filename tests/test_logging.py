"""The log of a run: its files, appending after a kill, and errors on a full disk."""

from __future__ import annotations

import errno
import io
import json
import re
import sys
import time

import numpy as np
import pytest

from beit import logging as run_logging
from beit.logging import RunLog, format_duration, format_table, progress


def open_log(folder, **options):
    return RunLog(folder, 0, stream=io.StringIO(), **options)


def json_lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_text_goes_to_stream_and_file(tmp_path):
    stream = io.StringIO()
    log = RunLog(tmp_path / "new" / "run", 0, stream=stream)
    log.text("hello")
    log.close()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d hello\n", stream.getvalue())
    assert (tmp_path / "new" / "run" / "log.txt").read_text() == stream.getvalue()
    log.close()
    log.text("still on the stream")
    assert "still on the stream" in stream.getvalue()


def test_a_note_is_written_once(tmp_path):
    log = open_log(tmp_path)
    for message in ("one file is left out", "two classes", "one file is left out"):
        log.note(message)
    log.close()
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.partition("note: ")[2] for line in lines] == ["one file is left out", "two classes"]


def test_stdout_is_the_default_stream(capsys):
    RunLog(None, 0).text("hello")
    assert capsys.readouterr().out.endswith(" hello\n")


def test_other_ranks_write_nothing(tmp_path, capsys):
    log = RunLog(tmp_path / "run", 1)
    log.text("hello")
    log.scalars("train", {"loss": 1.0}, 1)
    log.image("batch", np.zeros([2, 2, 3], np.uint8), 0)
    log.config("a: 1", {})
    log.close()
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_json_lines_are_flushed(tmp_path):
    log = open_log(tmp_path)
    log.scalars("train", {"loss": np.float32(0.5), "images": 12}, 7)
    log.scalars("val", {"top1": float("nan"), "loss": float("inf")}, 7)
    first, second = json_lines(tmp_path)  # before close()
    assert first == {"time": first["time"], "step": 7, "train/loss": 0.5, "train/images": 12}
    assert abs(first["time"] - time.time()) < 60
    assert (second["val/top1"], second["val/loss"]) == (None, None)
    log.close()


@pytest.mark.parametrize(
    ("left_behind", "steps"),
    [
        (b"", [9]),
        (b'{"step": 1}\n', [1, 9]),
        (b'{"step": 1}\n{"step": 2}', [1, 2, 9]),
        (b'{"step": 1}\n{"step": 2, "tr', [1, 9]),
        (b'{"st', [9]),
    ],
)
def test_resume_after_a_kill_keeps_whole_lines(tmp_path, left_behind, steps):
    (tmp_path / "metrics.jsonl").write_bytes(left_behind)
    (tmp_path / "log.txt").write_bytes(b"first run\nhalf a li")
    log = open_log(tmp_path)
    log.scalars("train", {}, 9)
    log.text("second run")
    log.close()
    assert [line["step"] for line in json_lines(tmp_path)] == steps
    text = (tmp_path / "log.txt").read_text().splitlines()
    assert text[:2] == ["first run", "half a li"]
    assert text[2].endswith(" second run")


@pytest.mark.parametrize("name", ["log.txt", "metrics.jsonl"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, name):
    log = open_log(tmp_path)
    file = log._text_file if name == "log.txt" else log._metrics_file
    file.close()
    file._file = io.FileIO("/dev/full", "ab")  # the device that refuses every write
    with pytest.raises(
        OSError, match=rf"free space or choose another output folder.*{re.escape(name)}"
    ) as info:
        if name == "log.txt":
            log.text("hello")
        else:
            log.scalars("train", {"loss": 1.0}, 1)
    assert info.value.errno == errno.ENOSPC
    log.close()


def test_a_partly_written_line_is_completed(tmp_path):
    class Slow(io.BytesIO):
        def write(self, data):
            return super().write(bytes(data[:3]))

    log = open_log(tmp_path)
    log._metrics_file.close()
    log._metrics_file._file = slow = Slow()
    log.scalars("train", {"loss": 1.0}, 4)
    log._text_file.close()
    assert json.loads(slow.getvalue())["step"] == 4


def test_an_unwritable_log_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(OSError, match=r"cannot write the run log.*log\.txt"):
        open_log(tmp_path)


def test_image_shape_is_checked(tmp_path):
    log = open_log(tmp_path)
    for bad in (np.zeros([2, 2, 3], np.float32), np.zeros([2, 2], np.uint8), np.zeros([3, 2, 2], np.uint8)):
        with pytest.raises(ValueError, match=r"batch must be uint8 \[H, W, 3\]"):
            log.image("batch", bad, 0)
    log.close()


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(run_logging.time, "monotonic", lambda: self.now)


def run_progress(clock, seconds_each, total, **options):
    for item in progress(range(total), total, "evaluate", **{"rank": 0, **options}):
        clock.now += seconds_each
        yield item


def test_progress_lines_at_every_tenth(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    assert list(run_progress(clock, 1.0, 20)) == list(range(20))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "evaluate: 2/20, 2.0 s spent, 18.0 s left"
    assert lines[-1] == "evaluate: 20/20, 20.0 s spent, 0.0 s left"


def test_progress_lines_of_slow_and_fast_work(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    assert len(list(run_progress(clock, 31.0, 3))) == 3
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert len(list(run_progress(clock, 31.0, 40))) == 40
    assert len(capsys.readouterr().err.splitlines()) == 40, "30 s without a line bring one"
    assert len(list(run_progress(clock, 0.001, 100))) == 100
    assert capsys.readouterr().err.splitlines() == ["evaluate: 100/100, 0.1 s spent, 0.0 s left"]


def test_progress_on_other_ranks_and_of_no_batches(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    assert list(run_progress(clock, 50.0, 3, rank=1)) == [0, 1, 2]
    assert list(run_progress(clock, 50.0, 0)) == []
    assert capsys.readouterr() == ("", "")


def test_progress_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), 3, "evaluate", rank=0)) == [0, 1, 2]
    assert "evaluate:" in terminal.getvalue()
    assert "3" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.6, "1 h 00 min"),
        (7625, "2 h 07 min"),
        (3 * 86400 + 4 * 3600 + 59 * 60, "3 d 04 h"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_format_duration_refuses(seconds):
    with pytest.raises(ValueError, match="finite number of seconds"):
        format_duration(seconds)


def test_a_removed_file_is_created_again_and_a_removed_folder_is_an_error(tmp_path):
    log = open_log(tmp_path / "run")
    log.text("first")
    (tmp_path / "run" / "log.txt").unlink()
    log.text("second")
    assert (tmp_path / "run" / "log.txt").read_text(encoding="utf-8").endswith("second\n")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "run" / "visualdl").mkdir(parents=True)
    with pytest.raises(OSError, match=r"cannot write the run log \(the folder was removed\).*log\.txt"):
        log.text("third")
    log.close()


def test_tables_are_aligned():
    rows = [("class", "IoU", "pixels"), ("sky", "7.50", "1,024"), ("a house", "-", "3")]
    assert format_table(rows, left=1).splitlines() == [
        "class     IoU  pixels",
        "sky      7.50   1,024",
        "a house     -       3",
    ]


def test_columns_of_a_table_are_aligned_in_a_terminal_in_any_script():
    rows = [("塔/1.jpg", "塔", "9"), ("coin.jpg", "Лев", "10"), ("e\u0301te.jpg", "硬币", "7")]
    assert format_table(rows, left=2).splitlines() == [
        "塔/1.jpg  塔     9",
        "coin.jpg  Лев   10",
        "e\u0301te.jpg   硬币   7",
    ]
