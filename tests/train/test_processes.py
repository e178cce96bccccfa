"""The documented commands as processes: several ranks, two nodes, signals, kills."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.files import read, read_checkpoint
from beit.parallel.signals import EXIT_STOPPED
from tests.tiny import (
    QUIET,
    ROOT,
    command,
    different_weights,
    environment,
    losses,
    run_command,
    write_dataset,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), train=88, val=11)


def start(arguments: list[str], **extra: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        cwd=ROOT,
        **extra,
    )


def wait_for_step(output: Path, step: int, process: subprocess.Popen[str], timeout: float = 240) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        if (output / "metrics.jsonl").exists() and len(losses(output)) >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} not reached in {timeout} s")


SUMS = ("top1", "top5", "count")


def test_two_ranks_equal_one_rank_with_the_double_batch(data: Path, tmp_path: Path) -> None:
    for script, batch, extra in (("main_single_gpu.py", 8, ()), ("main_multi_gpu.py", 4, ("-nprocs=2",))):
        result = run_command(
            command(script, data, tmp_path / str(batch), *extra, DATA__BATCH_SIZE=batch, **QUIET)
        )
        assert result.returncode == 0, result.stderr
    one, two = losses(tmp_path / "8"), losses(tmp_path / "4")
    assert len(one) == 22
    np.testing.assert_allclose(one, two, atol=1e-5)
    # 11 images over two ranks in batches of 4 give the ranks unequal shares.
    reports = []
    for script, extra in (("main_single_gpu.py", ()), ("main_multi_gpu.py", ("-nprocs=2",))):
        output = tmp_path / f"eval{len(extra)}"
        weights = f"-pretrained={tmp_path / '8' / 'model.pdparams'}"
        result = run_command(command(script, data, output, "-eval", weights, *extra))
        assert result.returncode == 0, result.stderr
        reports.append(json.loads((output / "eval.json").read_text(encoding="utf-8")))
    assert [reports[0][name] for name in SUMS] == [reports[1][name] for name in SUMS]
    assert reports[0]["count"] == 11
    assert reports[0]["loss"] == pytest.approx(reports[1]["loss"], abs=1e-6)


def test_two_ranks_evaluate_each_image_with_several_labels_once(tmp_path: Path) -> None:
    """Average precision needs the scores of all images: 11 images, 6 and 5 of each rank."""
    several = write_dataset(tmp_path / "data", train=16, val=11)
    for split in ("train", "val"):
        names = [line.rsplit(" ", 1)[0] for line in (several / f"{split}_list.txt").read_text().splitlines()]
        labels = [",".join(str(k) for k in range(3) if n * 7 % 8 >> k & 1) or "-" for n in range(len(names))]
        (several / f"{split}_list.txt").write_text(
            "".join(f"{a} {b}\n" for a, b in zip(names, labels, strict=True))
        )
    keys = {"TASK": "multilabel", "TRAIN__LOSS": "bce"}
    run = command("main_single_gpu.py", several, tmp_path / "run", **QUIET | keys | {"TRAIN__NUM_EPOCHS": 1})
    assert run_command(run).returncode == 0
    reports = []
    for script, extra in (("main_single_gpu.py", ()), ("main_multi_gpu.py", ("-nprocs=2",))):
        output = tmp_path / f"eval{len(extra)}"
        weights = f"-pretrained={tmp_path / 'run' / 'model.pdparams'}"
        result = run_command(command(script, several, output, "-eval", weights, *extra, **keys))
        assert result.returncode == 0, result.stderr
        reports.append(json.loads((output / "eval.json").read_text(encoding="utf-8")))
    assert reports[0]["count"] == reports[1]["count"] == 11
    for name in ("mAP", "macro_f1", "micro_f1", "loss"):
        assert reports[0][name] == pytest.approx(reports[1][name], abs=1e-5), name
    assert 0 < reports[0]["mAP"] < 100


def test_two_ranks_recompute_the_same_weights(data: Path, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"TRAIN__MAX_STEPS": 2, "TRAIN__WARMUP_EPOCHS": 0, "TRAIN__FREEZE_LAYERS": 1}
    for flag in (True, False):
        arguments = command(
            "main_multi_gpu.py", data, tmp_path / str(flag), "-nprocs=2", TRAIN__RECOMPUTE=flag, **keys
        )
        result = run_command(arguments)
        assert result.returncode == 0, result.stderr
    assert different_weights(tmp_path / "True", tmp_path / "False") == []


def test_ranks_stop_early_together(data: Path, tmp_path: Path) -> None:
    keys = QUIET | {
        "TRAIN__BASE_LR": 0.0,
        "TRAIN__END_LR": 0.0,
        "TRAIN__NUM_EPOCHS": 9,
        "TRAIN__EARLY_STOP": 1,
    }
    result = run_command(command("main_multi_gpu.py", data, tmp_path, "-nprocs=2", **keys))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("early stop: the last 1 evaluation(s) are not better") == 1
    assert read_checkpoint(tmp_path / "latest.pdparams")["step"] == len(losses(tmp_path)) == 22
    assert (tmp_path / "model.pdparams").is_file()


def test_a_killed_and_resumed_run_ends_in_the_same_bytes(data: Path, tmp_path: Path) -> None:
    keys = {"SAVE_STEPS": 3, "DATA__NUM_WORKERS": 1}
    whole = run_command(command("main_single_gpu.py", data, tmp_path / "whole", **keys))
    assert whole.returncode == 0, whole.stderr
    arguments = command("main_single_gpu.py", data, tmp_path / "killed", "-resume=auto", **keys)
    for step in (5, 26):
        process = start(arguments)
        wait_for_step(tmp_path / "killed", step, process)
        process.kill()
        process.communicate()
    result = run_command(arguments)
    assert result.returncode == 0, result.stderr
    assert different_weights(tmp_path / "whole", tmp_path / "killed") == []


@pytest.mark.parametrize(("ranks", "to_all"), [(1, True), (2, False), (2, True)])
def test_sigterm_saves_the_step(data: Path, tmp_path: Path, ranks: int, to_all: bool) -> None:
    """The signal goes to the started process, or to all of its processes and workers, as batch systems send it."""
    script, extra = ("main_single_gpu.py", ()) if ranks == 1 else ("main_multi_gpu.py", ("-nprocs=2",))
    keys = {"TRAIN__NUM_EPOCHS": 500, "DATA__NUM_WORKERS": 1}
    process = start(command(script, data, tmp_path, *extra, **keys), start_new_session=True)
    wait_for_step(tmp_path, 3, process)
    if to_all:
        os.killpg(process.pid, signal.SIGTERM)
    else:
        process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == EXIT_STOPPED, output
    assert "stopped by SIGTERM after step" in output
    step = len(losses(tmp_path))
    assert read(tmp_path / "latest.pdparams").tree["step"] == step


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of the ranks of a launching process, in order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return [
        pid
        for pid in map(int, children)
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    ]


def test_a_killed_rank_ends_the_others(data: Path, tmp_path: Path) -> None:
    process = start(
        command("main_multi_gpu.py", data, tmp_path, "-nprocs=2", TRAIN__NUM_EPOCHS=500, RANK_GRACE=1.0)
    )
    wait_for_step(tmp_path, 3, process)
    ranks = ranks_of(process)
    assert len(ranks) == 2
    os.kill(ranks[1], signal.SIGKILL)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 of 2 was killed by SIGKILL; stopping the other ranks" in output
    assert not Path(f"/proc/{ranks[0]}").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_nodes_on_loopback(data: Path, tmp_path: Path) -> None:
    """`paddle.distributed.launch`, started once per node, gives the losses of one process with the double batch."""
    master = f"127.0.0.1:{free_port()}"
    nodes = []
    for node in range(2):
        arguments = command("main_multi_gpu.py", data, tmp_path / "nodes", **QUIET)
        launcher = [
            sys.executable,
            "-m",
            "paddle.distributed.launch",
            "--nnodes",
            "2",
            "--nproc_per_node",
            "1",
        ]
        launcher += ["--master", master, "--rank", str(node), "--log_dir", str(tmp_path / f"log{node}")]
        nodes.append(start(launcher + arguments[1:]))
    for process in nodes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
    result = run_command(command("main_single_gpu.py", data, tmp_path / "one", DATA__BATCH_SIZE=8, **QUIET))
    assert result.returncode == 0, result.stderr
    np.testing.assert_allclose(losses(tmp_path / "nodes"), losses(tmp_path / "one"), atol=1e-5)


@pytest.mark.parametrize(
    ("script", "extra", "message"),
    [
        ("main_multi_gpu.py", ("-nprocs=2", "-eval", "-pretrained=/nowhere.pdparams"), "/nowhere.pdparams"),
        (
            "main_single_gpu.py",
            ("-nprocs=2",),
            "-nprocs 2: main_single_gpu.py runs one rank; use main_multi_gpu.py",
        ),
        ("main_single_gpu.py", ("-cfg=configs/beit_bse_patch16_224.yaml",), "beit_base_patch16_224"),
        ("main_single_gpu.py", ("-pretraind=x",), "did you mean -pretrained?"),
    ],
)
def test_user_errors_are_one_line_and_status_2(
    data: Path, tmp_path: Path, script: str, extra: tuple[str, ...], message: str
) -> None:
    result = run_command(command(script, data, tmp_path, *extra))
    assert result.returncode == 2, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("script", ["run_eval_multi.sh", "run_train_multi.sh"])
def test_arguments_of_the_run_scripts_override_theirs(tmp_path: Path, script: str) -> None:
    """Run the scripts with a `python` that prints its arguments."""
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES"\nfor word in "$@"; do echo "$word"; done\n', encoding="utf-8"
    )
    fake.chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    result = subprocess.run(
        ["sh", script, "-batch_size=7", "-data_path=my data"], capture_output=True, text=True, cwd=ROOT,
        env=env | {"PYTHON": str(fake)}, check=True,
    )  # fmt: skip
    devices, program, *words = result.stdout.splitlines()
    assert (devices, program, words[-1]) == ("0,1,2,3,4,5,6,7", "main_multi_gpu.py", "-data_path=my data")
    from beit.flags import config_from_arguments

    config = config_from_arguments(words)
    assert (config.DATA.BATCH_SIZE, config.DATA.DATA_PATH, config.AMP) == (7, "my data", True)
    assert ("eval" in script) == config.EVAL
    assert bool(config.MODEL.PRETRAINED) == ("eval" in script)
