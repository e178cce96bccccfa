"""Stdout has the results of a program alone, whatever Paddle prints there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from beit.streams import STDERR, STDOUT, output_to, stdout_to_stderr, without_line
from tests.tiny import ROOT, environment

_EXPORT_AND_RUN = """
import sys
import numpy as np
from beit.beit import build_beit
from beit.deploy.export import export
from beit.deploy.runner import load_runner
from beit.predict.classifier import classifier
from tests.tiny import tiny_config

model = classifier(build_beit(tiny_config()))
export(model, sys.argv[1], sys.argv[2:])
runner = load_runner(sys.argv[1], engine="paddle")
images = np.stack([runner.description.open(path) for path in sys.argv[2:]])
print(runner(images)["logits"].shape)
"""


def test_a_program_that_exports_and_runs_a_model_prints_only_its_own_lines(
    photographs: list[Path], tmp_path: Path
) -> None:
    words = [sys.executable, "-W", "ignore", "-c", _EXPORT_AND_RUN, tmp_path / "out", *photographs]
    result = subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == f"({len(photographs)}, 3)\n"
    assert result.stderr == ""


@pytest.mark.parametrize("number", [STDOUT, STDERR])
def test_only_lines_with_the_text_are_dropped(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), without_line(number, "notice"):
        os.write(number, b"a result\na notice of Paddle\n")
        os.write(3 - number, b"other\n")
        raise ZeroDivisionError
    captured = capfd.readouterr()
    assert captured[number - 1] == "a result\n" and captured[2 - number] == "other\n"


def test_stdout_goes_to_stderr_inside_of_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_to_stderr():
        os.write(STDOUT, b"C++\n")
        print("Python")
    print("result")
    captured = capfd.readouterr()
    assert captured.out == "result\n" and sorted(captured.err.split()) == ["C++", "Python"]


def test_all_output_goes_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log.txt").open("a", buffering=1) as file, output_to(file):
        print("Python")
        print("Python's errors", file=sys.stderr)
        os.write(STDOUT, b"C++\n")
        os.write(STDERR, b"C++'s errors\n")
        subprocess.run(["echo", "process"], check=True)
    print("result")
    assert capfd.readouterr() == ("result\n", "")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["Python", "Python's errors", "C++", "C++'s errors", "process"]


def test_a_closed_stream_is_no_error() -> None:
    script = (
        "import os; os.close(1)\nfrom beit.streams import without_line\n"
        "with without_line(1, 'x'): os.write(2, b'done')"
    )
    words = [sys.executable, "-c", script]
    result = subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stderr == "done"
