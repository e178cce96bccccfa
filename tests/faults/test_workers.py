"""Data workers without shared memory, too many, killed and hanging."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.harness import (
    Row,
    copied,
    finish,
    kill,
    make_hang,
    message,
    namespace,
    needs_mount,
    start,
    succeed,
    workers_of,
)
from tests.tiny import command

LARGE = {
    "DATA__IMAGE_SIZE": 224,
    "MODEL__PATCH_SIZE": 112,
    "DATA__BATCH_SIZE": 8,
    "DATA__NUM_WORKERS": 2,
    "TRAIN__NUM_EPOCHS": 1,
}


@needs_mount
@pytest.mark.parametrize(
    ("size", "what"), [("256k", "256 KiB, a batch is 1.2 MB"), ("0", "read-only: not even a semaphore fits")]
)
def test_shared_memory_is_small(data: Path, tmp_path: Path, row: Row, size: str, what: str) -> None:
    row.fault, row.expected = (
        f"/dev/shm is {what}, 2 workers",
        "works: batches do not pass through /dev/shm"
        if size != "0"
        else "status 1, one line that names /dev/shm",
    )
    mount = (
        f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
        if size != "0"
        else "mount -t tmpfs -o size=1m,ro tmpfs /dev/shm"
    )
    script = f'{mount} || exit 99; exec "$@"'
    words = command("main_single_gpu.py", data, tmp_path / "run", **LARGE)
    status, text, row.seconds = finish([*namespace(), script, "sh", *words], tmp_path / "run")
    assert "Traceback" not in text, text[-2000:]
    if size != "0":
        assert status == 0, text[-2000:]
    else:
        assert status == 1 and "the data workers cannot be started: Read-only file system" in text, text[
            -2000:
        ]
    row.seen = f"status {status}" + (f", {message(text)}" if status else ", trained and evaluated")


def test_more_workers_than_cores(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = "DATA.NUM_WORKERS=512", "a warning; as many workers as CPUs; the run continues"
    text = succeed(
        command("main_single_gpu.py", data, tmp_path / "run", DATA__NUM_WORKERS=512, TRAIN__NUM_EPOCHS=1),
        tmp_path / "run",
    )
    cores = len(os.sched_getaffinity(0))
    assert f"DATA.NUM_WORKERS=512, but {cores} CPUs: {cores} used" in text
    row.seen = f"DATA.NUM_WORKERS=512, but {cores} CPUs: {cores} used"


def test_a_worker_is_killed(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "kill -9 of a data worker (as the system does when memory runs out)",
        "status 1 or 2, and a message within seconds",
    )
    keys = {"TRAIN__NUM_EPOCHS": 500, "DATA__NUM_WORKERS": 2}
    run = start(command("main_single_gpu.py", data, tmp_path / "run", **keys), tmp_path / "run")
    run.wait_for_step(3)
    workers = workers_of(run)
    assert workers
    kill(workers[0])
    begin = time.monotonic()
    status = run.end()
    row.seconds = time.monotonic() - begin
    assert status != 0 and "a data worker was killed or could not start" in run.text(), run.text()[-1500:]
    assert "Traceback" not in run.text(), run.text()[-3000:]
    assert run.survivors() == []
    row.seen = f"status {status}: {message(run.text())}"


@pytest.mark.parametrize("how", ["stopped", "stuck"])
def test_a_worker_hangs(data: Path, tmp_path: Path, row: Row, how: str) -> None:
    row.fault = {
        "stopped": "SIGSTOP of the data worker",
        "stuck": "an image that blocks when it is read (like a hung network drive)",
    }[how]
    row.fault, row.expected = (
        row.fault + ", DATA.WORKER_TIMEOUT=3",
        "status 1 or 2; the message names the batch",
    )
    root = data
    if how == "stuck":
        root = copied(data, tmp_path / "data")
    keys = {"TRAIN__NUM_EPOCHS": 500, "DATA__NUM_WORKERS": 1, "DATA__WORKER_TIMEOUT": 3.0}
    run = start(command("main_single_gpu.py", root, tmp_path / "run", **keys), tmp_path / "run")
    begin = time.monotonic()
    if how == "stopped":
        run.wait_for_step(3)
        kill(workers_of(run)[0], signal.SIGSTOP)
        begin = time.monotonic()
    else:
        run.wait_for_step(3)
        make_hang(root / "my images" / "train_7.png")
    status = run.end()
    row.seconds = time.monotonic() - begin
    assert status != 0 and "no batch within DATA.WORKER_TIMEOUT=3 seconds; it begins with" in run.text(), (
        run.text()[-1500:]
    )
    assert "Traceback" not in run.text(), run.text()[-3000:]
    assert run.survivors() == []
    row.seen = f"status {status}: {message(run.text())}"


def test_out_of_memory(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "a batch that does not fit into memory (address space limited to 6 GB)",
        "status 1, one line with the size and what to lower",
    )
    keys = {"DATA__IMAGE_SIZE": 224, "MODEL__PATCH_SIZE": 4, "DATA__BATCH_SIZE": 40, "TRAIN__NUM_EPOCHS": 1}
    words = [
        "sh",
        "-c",
        'ulimit -v 6000000; exec "$@"',
        "sh",
        *command("main_single_gpu.py", data, tmp_path / "run", **keys),
    ]
    status, text, row.seconds = finish(words, tmp_path / "run")
    assert status == 1, text[-2500:]
    assert "error: out of memory: " in text and "Halve DATA.BATCH_SIZE and double TRAIN.ACCUM_ITER" in text, (
        text[-2500:]
    )
    row.seen = message(text)
