"""`beit doctor` on a CPU: what it measures is right, and what is wrong becomes a problem with advice."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beit.__main__ import main
from beit.doctor import environment, numerics, several_ranks
from beit.doctor.findings import Finding, findings_of
from beit.install import GPU_LINE
from beit.tools import doctor
from tests.tiny import ROOT
from tests.tiny import environment as one_thread


@pytest.mark.slow
def test_one_command_on_a_cpu():
    """In a process of its own: it sets the device, the threads and the allocator."""
    result = subprocess.run(
        [sys.executable, "-m", "beit", "doctor", "-device=cpu", "--json"],
        cwd=ROOT, env=one_thread(), capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr[-2000:]
    log = re.fullmatch(r"messages of the checks: (.*beit-doctor-.*\.log)\n", result.stderr)
    assert log and not Path(log.group(1)).exists()  # there were no problems
    report = json.loads(result.stdout)
    assert (report["device"], report["problems"]) == ("cpu", 0)
    found = {(entry["part"], entry["name"]): entry["value"] for entry in report["findings"]}
    parts = ["versions", "processor", "GPUs", "attention", "numbers", "steps", "loader", "ranks"]
    assert list(dict.fromkeys(part for part, _ in found)) == parts
    steps = {name: value for (part, name), value in found.items() if part == "steps"}
    assert list(steps) == ["classify", "probe", "pretrain, BEiT", "pretrain, BEiT v2", "tokenizer", "segment"]
    for value in steps.values():
        rate, loss, peak = re.fullmatch(
            r"\d+ images in \d+ ms, ([\d.]+) images/s, loss ([\d.]+), peak ([\d.]+) GiB .*", value
        ).groups()
        assert float(rate) > 0 and float(loss) > 0 and float(peak) > 0.05
    assert found["ranks", "2 ranks, gloo, sum"] == "3, expected 3"
    losses, difference = found["ranks", "2 ranks, gloo, losses"].split("; one rank differs by ")
    assert len(set(losses.split())) == 3 and float(difference) < 1e-5
    assert float(found["loader", "fine-tuning"].split()[0]) > 1


def test_numbers_agree_with_float64():
    (finding,) = numerics.numbers("cpu")
    logits, gradients = (float(number) for number in re.findall(r"\d\.\de[-+]\d\d", finding.value))
    assert finding.status == "ok" and 0 < logits < 1e-5 and 0 < gradients < 1e-4


@pytest.mark.parametrize("name", ["logits", "blocks.0.attn.relative_position_bias_table"])
def test_a_wrong_number_is_a_problem(name, monkeypatch):
    right = numerics._logits_and_gradients

    def wrong(device: str, dtype: str) -> dict[str, np.ndarray]:
        found = right(device, dtype)
        return found | {name: 0.5 * found[name]} if dtype == "float32" else found

    monkeypatch.setattr(numerics, "_logits_and_gradients", wrong)
    (finding,) = numerics.numbers("cpu")
    assert finding.status == "problem" and "do not train in float32" in finding.advice


def test_gpus_that_the_cpu_build_cannot_use_are_a_problem(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 570.86.15'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (finding,) = environment.gpus()
    assert (finding.value, finding.status) == ("the CPU build", "problem") and GPU_LINE in finding.advice
    program.write_text("#!/bin/sh\nexit 9\n")  # no driver
    (finding,) = environment.gpus()
    assert finding.status == "ok" and finding.value.startswith("none")


@pytest.mark.parametrize(("version", "status"), [("3.0.0", "ok"), ("3.3.1", "ok"), ("3.4.0", "note")])
def test_a_version_that_the_tests_do_not_run_on_is_a_note(version, status, monkeypatch):
    monkeypatch.setattr(environment, "paddle_version", lambda: version)
    found = {finding.name: finding for finding in environment.versions()}
    assert (found["Paddle"].value, found["Paddle"].status) == (version, status)


def test_little_shared_memory_is_a_note(monkeypatch):
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 64 << 20})())
    found = {finding.name: finding for finding in environment.processor()}
    assert found["/dev/shm"].status == "note" and "--shm-size" in found["/dev/shm"].advice


@pytest.mark.parametrize(
    ("status", "total", "loss", "problem"),
    [
        (0, 3.0, 0.5, None),
        (1, 3.0, 0.5, "a rank ended with status 1"),
        (0, 2.0, 0.5, "2, expected 3"),
        (0, 3.0, 0.6, "one rank differs by 2.0e-01"),
    ],
)
def test_ranks_that_disagree_are_a_problem(status, total, loss, problem, tmp_path, monkeypatch):
    def write(folder, value):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": value}) + "\n")

    def launch(*_, **__):
        (tmp_path / "sum.json").write_text(str(total))
        write(tmp_path / "several", loss)
        return status

    monkeypatch.setattr(several_ranks, "launch", launch)
    monkeypatch.setattr(several_ranks, "run", lambda _: write(tmp_path / "one", 0.5))
    found = list(several_ranks.several_ranks(tmp_path, "cpu", 2))
    wrong = [finding.value for finding in found if finding.status == "problem"]
    assert len(wrong) == (problem is not None)
    assert problem is None or problem in wrong[0]


def test_a_check_that_fails_is_a_problem_and_the_others_run(monkeypatch, capsys):
    def fails():
        yield Finding("a", "first", "1")
        raise RuntimeError("\nno kernel image\nstack")

    found = list(findings_of("a", fails))
    assert found == [
        Finding("a", "first", "1"),
        Finding("a", "failed", "RuntimeError: no kernel image", "problem"),
    ]
    monkeypatch.setattr(
        doctor, "examine", lambda *_: iter([*found, Finding("b", "second", "2", "note", "change it")])
    )
    assert main(["doctor", "--device", "cpu"]) == 1
    out, err = capsys.readouterr()
    log = Path(err.removeprefix("messages of the checks: ").strip())
    assert log.is_file()
    log.unlink()
    assert out == (
        "a\n  first                1\nX failed               RuntimeError: no kernel image\nb\n"
        "! second               2\n\nwhat to change\n  a, failed: RuntimeError: no kernel image\n"
        "  b, second: change it\n"
    )
