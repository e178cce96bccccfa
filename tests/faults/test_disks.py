"""Full, read-only, slow and removed disks, and two runs with one output folder."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.train.run import run as run_here
from tests.faults.harness import (
    Row,
    finish,
    leftovers,
    lines_of,
    message,
    namespace,
    needs_mount,
    start,
    step_of,
    succeed,
)
from tests.tiny import PRETRAIN, command, different_weights, tiny_config, write_dataset

KEYS = {"TRAIN__NUM_EPOCHS": 3, "SAVE_STEPS": 4, "KEEP_LAST": 1}


@needs_mount
@pytest.mark.parametrize("size", ["300k", "520k", "700k"])
def test_full_disk(data: Path, tmp_path: Path, row: Row, size: str) -> None:
    row.fault = f"disk of {size} for the output (a tmpfs)"
    row.expected = "status 2, one line with the file and `No space left`; the last checkpoint intact; with free space the run resumes to the same bytes"
    succeed(command("main_single_gpu.py", data, tmp_path / "whole", **KEYS), tmp_path / "whole")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    arguments = command("main_single_gpu.py", data, small / "run", "-resume=auto", **KEYS)
    script = f'mount -t tmpfs -o size={size} tmpfs "{small}" || exit 99; "$@"; status=$?; cp -r "{small}/run" "{kept}"; exit $status'
    status, text, row.seconds = finish([*namespace(), script, "sh", *arguments], tmp_path / "out")
    assert status == 2, text[-1500:]
    said = next(line for line in text.splitlines() if line.startswith("error:"))
    assert "No space left on device" in said and str(small) in said and "Traceback" not in text, text[-1500:]
    step = step_of(kept)
    assert leftovers(kept) == []
    succeed(command("main_single_gpu.py", data, kept, "-resume=auto", **KEYS), kept)
    assert different_weights(tmp_path / "whole", kept) == []
    row.seen = f"{said[:150]}; checkpoint of step {step} intact, resumed, bytes equal"


@needs_mount
def test_read_only_output(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = "output on a read-only disk", "status 2 and one line before the first step"
    script = f'mount -t tmpfs -o size=1m,ro tmpfs "{tmp_path}" || exit 99; exec "$@"'
    target = tmp_path / "run"
    arguments = command("main_single_gpu.py", data, target)
    status, text, row.seconds = finish(
        [*namespace(), script, "sh", *arguments], tmp_path.with_name(f"{tmp_path.name}-log")
    )
    assert status == 2 and "the output folder cannot be written: Read-only file system" in text, text[-1500:]
    row.seen = message(text)


@needs_mount
def test_output_becomes_read_only(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "the disk turns read-only during the run (as after an I/O error)",
        "status 2, one line; the last checkpoint intact",
    )
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    arguments = command("main_single_gpu.py", data, disk / "run", TRAIN__NUM_EPOCHS=500, SAVE_STEPS=3)
    # A read-only mount on top: what is open can still be written, as on a disk that has failed in part.
    script = (
        f'mount -t tmpfs -o size=64m tmpfs "{disk}" || exit 99; "$@" & pid=$!; '
        f'until [ -e "{disk}/run/latest.pdparams" ]; do sleep 0.05; kill -0 $pid || exit 98; done; '
        f'mount --bind "{disk}" "{disk}" && mount -o remount,bind,ro "{disk}" || exit 97; '
        f'wait $pid; status=$?; cp -r "{disk}/run" "{kept}"; exit $status'
    )
    run = start([*namespace(), script, "sh", *arguments], tmp_path / "out")
    status = run.end()
    text = run.text()
    assert status == 2 and "Traceback" not in text, text[-1500:]
    row.seen = f"{message(text)[:150]}; checkpoint of step {step_of(kept)} intact"


def test_output_removed(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "the output folder is removed during the run",
        "status 2 and one line that names the folder, at the next log line",
    )
    run = start(
        command("main_single_gpu.py", data, tmp_path / "run", TRAIN__NUM_EPOCHS=500, SAVE_STEPS=5),
        tmp_path / "run",
    )
    run.wait_for_step(7)
    while (tmp_path / "run").exists():  # it may be given a new file in between
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
    begin = time.monotonic()
    status = run.end()
    row.seconds = time.monotonic() - begin
    assert status == 2 and "Traceback" not in run.text(), run.text()[-1500:]
    assert str(tmp_path / "run") in message(run.text())
    row.seen = message(run.text())


def test_two_runs_in_one_folder(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "a second run and an evaluation into the folder of a run",
        "both refused, status 2; the first run continues",
    )
    keys = {"TRAIN__NUM_EPOCHS": 500, "SAVE_STEPS": 5}
    first = start(command("main_single_gpu.py", data, tmp_path / "run", **keys), tmp_path / "run")
    first.wait_for_step(10)
    weights = tmp_path / "run" / "latest.pdparams"
    begin = time.monotonic()
    second = start(
        command("main_single_gpu.py", data, tmp_path / "run", "-resume=auto", **keys), tmp_path / "run"
    )
    third = start(
        command("main_single_gpu.py", data, tmp_path / "run", "-eval", f"-pretrained={weights}"),
        tmp_path / "run",
    )
    for run in (second, third):
        assert run.end() == 2
        assert f"another run is writing into {tmp_path / 'run'}" in run.text(), run.text()[-1500:]
    row.seconds = time.monotonic() - begin
    row.seen = message(second.text())
    assert first.process.poll() is None
    first.sweep()
    # The lock of a killed run is gone with it.
    again = start(
        command("main_single_gpu.py", data, tmp_path / "run", "-resume=auto", **keys), tmp_path / "run"
    )
    again.wait_for_step(1)
    again.sweep()


def test_output_used_again(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "a new run into the folder of a finished one",
        "refused, status 2; no file is touched",
    )
    succeed(command("main_single_gpu.py", data, tmp_path / "run", TRAIN__NUM_EPOCHS=1), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    status, text, row.seconds = finish(
        command("main_single_gpu.py", data, tmp_path / "run"), tmp_path / "run"
    )
    assert (
        status == 2
        and "already holds a training run; continue it with -resume auto or choose another -output" in text
    )
    assert before == {
        path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()
    }
    row.seen = message(text)


def test_slow_disk(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "every sync of the disk takes 1 s, two ranks",
        "only slower; the same bytes as the fast run",
    )
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import os, time\nreal = os.fsync\n\ndef fsync(handle):\n    time.sleep(1.0)\n    return real(handle)\n\nos.fsync = fsync\n",
        encoding="utf-8",
    )
    keys = {"TRAIN__NUM_EPOCHS": 1, "SAVE_STEPS": 4, "RANK_TIMEOUT": 10.0}
    arguments = command("main_multi_gpu.py", data, tmp_path / "fast", "-nprocs=2", **keys)
    succeed(arguments, tmp_path / "fast")
    arguments = command("main_multi_gpu.py", data, tmp_path / "run", "-nprocs=2", **keys)
    path = os.pathsep.join([str(slow), str(Path(__file__).parent.parent.parent)])
    status, text, seconds = finish(arguments, tmp_path / "run", extra={"PYTHONPATH": path})
    assert status == 0, text[-1500:]
    assert different_weights(tmp_path / "fast", tmp_path / "run") == []
    row.seen = f"finished after {seconds:.0f} s, bytes equal"


def test_a_failed_resume_changes_nothing(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault = "-resume of a checkpoint that does not fit; -resume of another folder's checkpoint into a folder with a run"
    row.expected = "status 2, one line; config, class names and weights of the runs unchanged"
    first, second = tmp_path / "first", tmp_path / "second"
    succeed(command("main_single_gpu.py", data, first, TRAIN__NUM_EPOCHS=1), first)
    shutil.copytree(first, second)
    kept = {
        path: path.read_bytes()
        for folder in (first, second)
        for path in folder.glob("*.*")
        if path.name != "log.txt"
    }
    said = []
    for folder, words, keys in (
        (first, "-resume=auto", {"MODEL__DEPTH": 3}),
        (second, f"-resume={first / 'latest.pdparams'}", {}),
    ):
        status, text, row.seconds = finish(
            command("main_single_gpu.py", data, folder, words, TRAIN__NUM_EPOCHS=2, **keys), tmp_path / "out"
        )
        assert status == 2 and "Traceback" not in text, text[-1500:]
        said.append(message(text))
    changed = [path.name for path, content in kept.items() if path.read_bytes() != content]
    assert set(changed) <= {"metrics.jsonl"}, changed
    row.seen = "; ".join(said)


DAMAGED_CACHES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "another type": lambda ids: ids.astype(np.float32),
    "fewer rows": lambda ids: ids[:-1],
    "fewer patches": lambda ids: ids[:, :-1],
    "ids beyond the vocabulary": lambda ids: ids + np.uint16(8192),
    "rows of zeros": lambda ids: ids * np.uint16(0),
}


@pytest.mark.parametrize("what", DAMAGED_CACHES)
def test_a_token_cache_that_is_not_of_this_run(tmp_path: Path, row: Row, what: str) -> None:
    row.fault, row.expected = f"DATA.TOKEN_CACHE with {what}", "refused in one line before the first step"
    data, file = write_dataset(tmp_path / "data"), tmp_path / "ids.npy"
    keys = PRETRAIN | {"TRAIN__MAX_STEPS": 1, "TRAIN__WARMUP_EPOCHS": 0.0, "DATA__TOKEN_CACHE": str(file)}
    run_here(tiny_config(data, tmp_path / "0", **keys))
    np.save(file, DAMAGED_CACHES[what](np.load(file)))
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is checked below)
        run_here(tiny_config(data, tmp_path / "1", **keys))
    row.seen = str(caught.value)
    assert "ids.npy" in row.seen and "delete this one and ids.json" in row.seen and row.seen.isprintable()
    assert lines_of(tmp_path / "1") == 0


def test_two_runs_create_one_token_cache(tmp_path: Path, row: Row) -> None:
    row.fault = "a second run starts while the first one creates DATA.TOKEN_CACHE"
    row.expected = "status 2 and one line; the ids of the first run are those of one run with two ranks"
    data = write_dataset(tmp_path / "data", train=1500)
    keys: dict[str, Any] = PRETRAIN | {"TRAIN__MAX_STEPS": 1, "TRAIN__WARMUP_EPOCHS": 0.0}
    keys |= {"DATA__TOKEN_CACHE": str(tmp_path / "ids.npy")}
    first = start(command("main_single_gpu.py", data, tmp_path / "0", **keys), tmp_path / "0")
    first.wait_for((tmp_path / "ids.partial").exists)
    for pid in first.members():
        os.kill(pid, signal.SIGSTOP)
    assert (tmp_path / "ids.partial").exists()
    status, text, row.seconds = finish(
        command("main_single_gpu.py", data, tmp_path / "1", **keys), tmp_path / "1"
    )
    assert status == 2 and "another run is filling DATA.TOKEN_CACHE" in text, text[-1500:]
    for pid in first.members():
        os.kill(pid, signal.SIGCONT)
    assert first.end() == 0, first.text()[-1500:]
    alone = keys | {"DATA__TOKEN_CACHE": str(tmp_path / "alone.npy")}
    succeed(command("main_multi_gpu.py", data, tmp_path / "2", "-nprocs=2", **alone), tmp_path / "2")
    assert (tmp_path / "ids.npy").read_bytes() == (tmp_path / "alone.npy").read_bytes()
    row.seen = message(text)
