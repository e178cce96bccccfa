"""`.ci/run` with commands that only say that they run: their order, the exit status, and Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import ROOT

# In the place of `python`: writes what it was asked for, and ends with the status that the environment states for it.
PYTHON = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
name = {"tests.faults": "faults", "pytest": "tests"}.get(sys.argv[2], "checks")
open(f"{name}.began", "w").close()
try:
    time.sleep(float(os.environ.get("SECONDS", "0")) if name != "checks" else 0)
finally:
    open(f"{name}.ended", "w").close()
print("output of", name)
sys.exit(int(os.environ.get(name, "0")))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci")
    (tmp_path / "python.py").write_text(PYTHON, encoding="utf-8")
    (tmp_path / "environment.sh").write_text(
        f"make_environment() {{ python() {{ {sys.executable} python.py \"$@\"; }}; }}\ncheck_code() {{ python -m ruff; }}\n",
        encoding="utf-8",
    )  # fmt: skip
    return tmp_path


def start(checkout: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", ".ci/run"], cwd=checkout, env=os.environ | {"TMPDIR": str(checkout)} | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize(("tests", "faults", "status"), [(0, 0, 0), (3, 0, 3), (0, 4, 4), (3, 4, 3)])
def test_both_statuses_decide_and_the_faults_come_last(
    checkout: Path, tests: int, faults: int, status: int
) -> None:
    process = start(checkout, tests=str(tests), faults=str(faults))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status
    assert output.splitlines() == [
        "output of checks",
        "output of tests",
        "output of faults",
        f"exit status of the tests: {tests}, of the faults: {faults}",
    ]
    assert not list(checkout.glob("tmp.*"))


def test_nothing_starts_after_a_failed_check(checkout: Path) -> None:
    process = start(checkout, checks="5")
    output, _ = process.communicate(timeout=120)
    assert (process.returncode, output) == (5, "output of checks\n")
    assert not (checkout / "tests.began").exists() and not (checkout / "faults.began").exists()


def test_ctrl_c_ends_both(checkout: Path) -> None:
    process = start(checkout, SECONDS="600")
    deadline = time.monotonic() + 120
    while not all((checkout / f"{name}.began").exists() for name in ("tests", "faults")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert all((checkout / f"{name}.ended").exists() for name in ("tests", "faults")), output
    assert not list(checkout.glob("tmp.*"))
