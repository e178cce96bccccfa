"""The same seed, machine and number of ranks give the same losses bit by bit; resources of a long run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from tests.faults.harness import Row, different_states, kill, start, succeed
from tests.tiny import command, losses

STEPS = int(os.environ.get("BEIT_FAULT_STEPS", "1500"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_same_run_twice(data: Path, tmp_path: Path, row: Row, ranks: int) -> None:
    row.fault, row.expected = (
        f"the same command twice, {ranks} rank(s), full augmentation; 0 and 2 workers, another log frequency",
        "the same losses and states, bit for bit",
    )
    script, extra = ("main_single_gpu.py", ()) if ranks == 1 else ("main_multi_gpu.py", ("-nprocs=2",))
    keys = {"TRAIN__MODEL_EMA": True, "TRAIN__ACCUM_ITER": 2}
    for name, more in (("a", {"DATA__NUM_WORKERS": 0}), ("b", {"DATA__NUM_WORKERS": 2, "VALIDATE_FREQ": 2})):
        succeed(command(script, data, tmp_path / name, *extra, **(keys | more)), tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert different_states(tmp_path / "a", tmp_path / "b") == []
    row.seen = f"{len(losses(tmp_path / 'a'))} losses and all states equal"


def test_changes_of_the_losses(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "another seed; another number of threads for matrix products",
        "the seed changes the run; threads may change the last bits (stated in docs/reliability.md)",
    )
    succeed(command("main_single_gpu.py", data, tmp_path / "a"), tmp_path / "a")
    succeed(command("main_single_gpu.py", data, tmp_path / "seed", SEED=1), tmp_path / "seed")
    run = start(
        command("main_single_gpu.py", data, tmp_path / "threads"),
        tmp_path / "threads",
        extra={"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"},
    )
    assert run.end() == 0
    assert losses(tmp_path / "a") != losses(tmp_path / "seed")
    np.testing.assert_allclose(losses(tmp_path / "a"), losses(tmp_path / "threads"), atol=1e-3)
    difference = np.abs(np.subtract(losses(tmp_path / "a"), losses(tmp_path / "threads"))).max()
    row.seen = f"the seed does; 2 threads instead of 1: largest difference of a loss {difference:.1e}"


def measure(pids: list[int]) -> tuple[float, int]:
    """Resident megabytes and open files of some processes together."""
    resident, files = 0.0, 0
    for pid in pids:
        try:
            resident += (
                int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
                * os.sysconf("SC_PAGE_SIZE")
                / 2**20
            )
            files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
        except OSError:
            continue
    return resident, files


def test_long_run(data: Path, tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        f"{STEPS:,} steps, a save every 100, an evaluation every epoch, 1 worker",
        "memory, open files and /dev/shm do not grow after the first third; KEEP_LAST checkpoints kept",
    )
    keys = {
        "TRAIN__NUM_EPOCHS": -(-STEPS // 22),
        "TRAIN__MAX_STEPS": STEPS,
        "SAVE_STEPS": 100,
        "SAVE_FREQ": 2,
        "REPORT_FREQ": 25,
    }
    keys |= {"DATA__NUM_WORKERS": 1, "VALIDATE_FREQ": max(1, STEPS // 2200), "KEEP_LAST": 2}
    run = start(command("main_single_gpu.py", data, tmp_path / "run", **keys), tmp_path / "run")
    run.wait_for_step(2)
    samples = []
    begin = time.monotonic()
    while run.process.poll() is None:
        members = run.members()
        shared = sum(
            path.stat().st_size
            for path in Path("/dev/shm").iterdir()
            if path.is_file() and _owner(path) in members
        )
        samples.append((time.monotonic() - begin, *measure(members), shared))
        time.sleep(0.25)
    assert run.end() == 0, run.text()[-1500:]
    # Medians of the second and the last third: growth shows in them, the end of the processes does not.
    middle, last = (np.median(part, axis=0) for part in np.array_split(np.array(samples), 3)[1:])
    growth = (last - middle)[1:] / (STEPS / 3) * 1000
    kept = sorted(path.name for path in (tmp_path / "run").glob("epoch_*.pdparams"))
    assert len(kept) == 2, kept
    limit = 4.0 if STEPS < 10_000 else 0.5
    assert growth[0] < limit and growth[1] < 1.0 and growth[2] == 0, growth
    row.seen = (
        f"{last[1]:.0f} MB resident ({growth[0]:+.2f} MB per 1,000 steps), {last[2]:.0f} open files ({growth[1]:+.2f}), "
        f"/dev/shm {last[3]:.0f} bytes, {STEPS / samples[-1][0]:.0f} steps/s, kept {', '.join(kept)}"
    )
    kill(run.process.pid)


def _owner(path: Path) -> int:
    parts = [part for part in path.name.split("_") if part.isdigit()]
    return int(parts[0]) if parts else 0
