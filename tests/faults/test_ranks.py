"""Ranks that hang, ports in use, and another number of ranks at a resume."""

from __future__ import annotations

import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from beit.parallel.watchdog import EXIT_HUNG
from tests.faults.harness import (
    Row,
    copied,
    finish,
    kill,
    make_hang,
    message,
    ranks_of,
    start,
    step_of,
    succeed,
)
from tests.tiny import QUIET, command, losses

LIMIT = 4.0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_is_stopped(data: Path, tmp_path: Path, row: Row, victim: int) -> None:
    row.fault = f"SIGSTOP of rank {victim} of two, RANK_TIMEOUT={LIMIT:g}"
    row.expected = (
        f"the job ends with status {EXIT_HUNG} and names the stopped rank; the last checkpoint is intact"
    )
    keys = {"TRAIN__NUM_EPOCHS": 500, "RANK_TIMEOUT": LIMIT, "RANK_GRACE": 0.5, "SAVE_STEPS": 5}
    run = start(command("main_multi_gpu.py", data, tmp_path / "run", "-nprocs=2", **keys), tmp_path / "run")
    run.wait_for_step(6)
    kill(ranks_of(run)[victim], signal.SIGSTOP)
    begin = time.monotonic()
    status = run.end()
    row.seconds = time.monotonic() - begin
    assert status == EXIT_HUNG, run.text()[-2000:]
    other = 1 - victim
    assert (
        f"error: rank {other} of 2: nothing happened for RANK_TIMEOUT = {LIMIT:g} seconds, in " in run.text()
    )
    assert f"error: rank {victim} of 2 is stopped (SIGSTOP, or a debugger)" in run.text()
    assert run.survivors() == []
    assert step_of(tmp_path / "run") >= 5
    row.seen = (
        f"rank {victim} of 2 is stopped; status {status}; resumable from step {step_of(tmp_path / 'run')}"
    )


def test_a_rank_hangs_in_its_data(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "an image of one rank blocks when it is read, no WORKER_TIMEOUT",
        "ends after RANK_TIMEOUT; a message states where each rank is",
    )
    root = copied(data, tmp_path / "data")
    keys = {"RANK_TIMEOUT": LIMIT, "RANK_GRACE": 3.0, "DATA__WORKER_TIMEOUT": 0.0, "TRAIN__NUM_EPOCHS": 500}
    run = start(command("main_multi_gpu.py", root, tmp_path / "run", "-nprocs=2", **keys), tmp_path / "run")
    run.wait_for_step(3)
    make_hang(root / "my images" / "train_7.png")
    begin = time.monotonic()
    status = run.end()
    row.seconds = time.monotonic() - begin
    assert status == EXIT_HUNG, run.text()[-2000:]
    assert "images.py" in run.text() or "dataset.py" in run.text(), run.text()[-2000:]
    assert run.survivors() == []
    row.seen = next(line for line in run.text().splitlines() if "images.py" in line or "dataset.py" in line)


def launcher(port: int, log: Path, ranks: int = 2) -> list[str]:
    arguments = [
        sys.executable,
        "-m",
        "paddle.distributed.launch",
        "--nproc_per_node",
        str(ranks),
        "--log_dir",
        str(log),
    ]
    return arguments if port == 0 else [*arguments, "--master", f"127.0.0.1:{port}", "--nnodes", "1"]


def test_under_the_launcher_of_paddle(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault = f"SIGSTOP of a rank under paddle.distributed.launch, RANK_TIMEOUT={LIMIT:g}"
    row.expected = "the watchdog of the other rank ends that rank; the launcher ends the job"
    keys = {"TRAIN__NUM_EPOCHS": 500, "RANK_TIMEOUT": LIMIT, "SAVE_STEPS": 5}
    arguments = (
        launcher(0, tmp_path / "log") + command("main_multi_gpu.py", data, tmp_path / "run", **keys)[1:]
    )
    run = start(arguments, tmp_path / "run")
    run.wait_for_step(6)
    ranks = [
        pid for pid in run.members() if b"PADDLE_TRAINER_ID=1" in Path(f"/proc/{pid}/environ").read_bytes()
    ]
    kill(min(ranks), signal.SIGSTOP)
    begin = time.monotonic()
    status = run.end()
    row.seconds = time.monotonic() - begin
    said = run.text() + "".join(
        path.read_text(encoding="utf-8", errors="replace") for path in (tmp_path / "log").glob("workerlog.*")
    )
    assert status != 0
    assert "error: rank 0 of 2: nothing happened for RANK_TIMEOUT" in said, said[-2000:]
    assert run.survivors() == []
    row.seen = f"rank 0 of 2: nothing happened for RANK_TIMEOUT; status {status}"


def test_port_in_use(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "the rendezvous port is taken by another program",
        "a message or a free port within RANK_TIMEOUT, no endless wait",
    )
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        environment = {
            "PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "2", "PADDLE_MASTER": f"127.0.0.1:{port}",
            "PADDLE_TRAINER_ENDPOINTS": f"127.0.0.1:{port},127.0.0.1:{port + 1}",
            "PADDLE_CURRENT_ENDPOINT": f"127.0.0.1:{port}", "PADDLE_DISTRI_BACKEND": "gloo",
        }  # fmt: skip
        run = start(
            command("main_multi_gpu.py", data, tmp_path / "run", RANK_TIMEOUT=LIMIT),
            tmp_path / "run",
            extra=environment,
        )
        begin = time.monotonic()
        status = run.end()
        row.seconds = time.monotonic() - begin
    assert status != 0
    assert run.survivors() == []
    row.seen = f"status {status}: {message(run.text())}"
    assert f"the ranks cannot meet at 127.0.0.1:{port}: Address already in use" in run.text(), run.text()[
        -2000:
    ]


def test_a_rank_does_not_start(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "rank 1 of two is never started",
        "rank 0 ends with a message after RANK_TIMEOUT",
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "2", "PADDLE_MASTER": f"127.0.0.1:{port}",
        "PADDLE_TRAINER_ENDPOINTS": f"127.0.0.1:{port},127.0.0.1:{port + 1}",
        "PADDLE_CURRENT_ENDPOINT": f"127.0.0.1:{port}", "PADDLE_DISTRI_BACKEND": "gloo",
    }  # fmt: skip
    status, text, row.seconds = finish(
        command("main_multi_gpu.py", data, tmp_path / "run", RANK_TIMEOUT=LIMIT),
        tmp_path / "run",
        extra=environment,
    )
    assert status != 0
    assert f"rank 0 of 2: waits for the other ranks, {LIMIT:g} seconds at most (RANK_TIMEOUT)" in text
    assert "Timeout (" in text and "init_parallel_env" in text, text[-2000:]
    row.seen = f"rank 0 of 2: waits for the other ranks, {LIMIT:g} seconds at most (RANK_TIMEOUT) … Timeout!"


def test_world_size_changes_at_the_resume(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault = (
        "2 ranks x 4 images, resumed on 1 rank x 8, then on 1 rank x 4 x 2 micro-batches, then on 2 ranks x 4"
    )
    row.expected = "the same order of images as in an uninterrupted run: losses equal to 1e-5; every evaluation counts 11 images"
    keys = QUIET | {"TRAIN__NUM_EPOCHS": 8}
    succeed(command("main_multi_gpu.py", data, tmp_path / "whole", "-nprocs=2", **keys), tmp_path / "whole")
    broken = tmp_path / "broken"
    layouts = [
        ("main_multi_gpu.py", ("-nprocs=2",), {}),
        ("main_single_gpu.py", (), {"DATA__BATCH_SIZE": 8}),
        ("main_single_gpu.py", (), {"TRAIN__ACCUM_ITER": 2}),
        ("main_multi_gpu.py", ("-nprocs=2",), {}),
    ]
    for number, (script, extra, layout) in enumerate(layouts):
        run = start(command(script, data, broken, "-resume=auto", *extra, **(keys | layout)), broken)
        if number < 3:
            run.wait_for_step(14)
            kill(run.process.pid, signal.SIGTERM)
            assert run.end() in (143, 0), run.text()[-1500:]
        else:
            assert run.end() == 0, run.text()[-1500:]
    one, two = losses(tmp_path / "whole"), losses(broken)
    assert len(one) == len(two) == 88
    np.testing.assert_allclose(one, two, atol=1e-5)
    row.seen = f"88 losses, largest difference {np.abs(np.subtract(one, two)).max():.1e}"


@pytest.mark.parametrize(("extra", "keys"), [(("-nprocs=2",), {}), ((), {"DATA__BATCH_SIZE": 3})])
def test_a_total_batch_that_changes_is_refused(
    data: Path, tmp_path: Path, row: Row, extra: tuple[str, ...], keys: dict[str, int]
) -> None:
    row.fault = f"resumed with {'2 ranks' if extra else 'another batch size'} and no other change"
    row.expected = "refused with the two total batches; status 2"
    succeed(command("main_single_gpu.py", data, tmp_path / "run", TRAIN__NUM_EPOCHS=1), tmp_path / "run")
    status, text, row.seconds = finish(
        command(
            "main_multi_gpu.py",
            data,
            tmp_path / "run",
            "-resume=auto",
            "-device=cpu",
            *extra,
            RANK_GRACE=1.0,
            **keys,
        ),
        tmp_path / "run",
    )
    assert status == 2, text[-1500:]
    assert "the data changed: total batch 4 -> " in text and "Traceback" not in text
    row.seen = next(line for line in text.splitlines() if "the data changed" in line)[-200:]


def test_no_gpu(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "-device gpu where Paddle has none",
        "status 2; the message names the missing package",
    )
    keys = {"DEVICE": "gpu"}
    status, text, row.seconds = finish(
        command("main_multi_gpu.py", data, tmp_path / "run", **keys), tmp_path / "run"
    )
    assert status == 2 and "DEVICE = gpu, but " in text and "Traceback" not in text, text[-1500:]
    row.seen = message(text)
