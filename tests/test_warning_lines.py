"""Warnings are one plain line each, once, on stderr and in the log of a run."""

from __future__ import annotations

import warnings

import pytest

from beit.__main__ import main
from beit.parallel import ranks
from beit.warning_lines import show_as_lines, show_warning, shown_warnings, warnings_to
from tests.tiny import TINY, options, write_dataset


@pytest.fixture(autouse=True)
def _shown_as_for_users():
    """pytest restores its own display and filters afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield


def test_a_line_without_the_place_in_the_code_once(capsys):
    show_as_lines(["warning: of the parent process"])
    for _ in range(2):
        warnings.warn("two\nlines \x1b[31m", stacklevel=1)
        show_warning("plain")
        show_warning("of the parent process")
    assert capsys.readouterr().err == "warning: two lines \\x1b[31m\nwarning: plain\n"
    assert shown_warnings()[1:] == ["warning: two lines \\x1b[31m", "warning: plain"]


def test_a_log_gets_earlier_and_later_warnings_once_and_the_display_stays(recwarn):
    show_as_lines()
    show_warning("earlier")
    lines: list[str] = []
    display = warnings.showwarning
    with warnings_to(lines.append):
        warnings.warn("later", stacklevel=1)
        warnings.warn("later", stacklevel=1)
    warnings.warn("after", stacklevel=1)
    assert lines == ["warning: earlier", "warning: later"]
    assert warnings.showwarning is display


@pytest.mark.parametrize("program", [None, "/usr/bin/nvidia-smi"])
def test_a_gpu_that_is_not_used_is_warned_of(monkeypatch, capsys, program):
    monkeypatch.setattr(ranks.paddle, "is_compiled_with_cuda", lambda: False)
    monkeypatch.setattr(ranks.shutil, "which", lambda name: program)
    show_as_lines()
    assert ranks.choose_device("auto") == "cpu"
    warning = "warning: this Paddle is a CPU build, so this runs on the CPU"
    assert (warning in capsys.readouterr().err) == (program is not None)


def test_python_programs_keep_their_own_display():
    lines: list[str] = []
    with pytest.warns(UserWarning, match="seen by the caller"), warnings_to(lines.append):
        warnings.warn("seen by the caller", stacklevel=1)
    assert lines[-1:] == ["warning: seen by the caller"]


def test_warnings_of_a_command_stand_once_on_stderr_and_in_log_txt(tmp_path, capsys):
    data = write_dataset(tmp_path / "data")
    with (data / "train_list.txt").open("a") as file:
        file.write("my images/train_0.png 0\n")
    given = [f"-data_path={data}", f"-output={tmp_path / 'out'}", "-opts", *map(str, options(TINY))]
    assert main(["train", *given, "AUG.MIXUP", "0.0", "TRAIN.NUM_EPOCHS", "1"]) == 0
    shown, log = capsys.readouterr().err, (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    expected = (
        "warning: options: AUG.MIXUP is now called TRAIN.MIXUP_ALPHA",
        f"warning: {data / 'train_list.txt'}: 1 of 25 lines repeat an image",
    )
    for line in expected:
        assert (shown.count(line), log.count(line)) == (1, 1)
    assert ".py:" not in shown and "UserWarning" not in shown
