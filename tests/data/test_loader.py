from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import spawn
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.config import get_config
from beit.data.dataset import ClassificationDataset
from beit.data.image_list import ImageList
from beit.data.images import ImageError
from beit.data.loader import Loader, WorkerError, _hidden_main, collate, worker_count
from beit.data.sampler import EvalSampler, Sample
from beit.data.transforms import TrainTransform

HERE = Path(__file__).parent


@pytest.fixture
def fakes(monkeypatch):
    """The module `fake_datasets`, importable in this process and in workers."""
    monkeypatch.syspath_prepend(HERE)
    import fake_datasets

    return fake_datasets


@pytest.fixture(autouse=True)
def enough_cpus(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})


def test_collate():
    batch = collate([{"a": np.zeros((2, 3), np.uint8), "b": np.asarray(k)} for k in range(4)])
    assert batch["a"].shape == (4, 2, 3) and batch["a"].dtype == np.uint8
    assert batch["b"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_come_in_order(fakes, num_workers):
    with Loader(fakes.Numbers(), num_workers=num_workers) as loader:
        assert [batch["index"].tolist() for batch in loader(EvalSampler(5, batch_size=2))] == [
            [0, 1],
            [2, 3],
            [4],
        ]
        again = [batch["pair"].tolist() for batch in loader([[Sample(7, 8)], [Sample(1, 2)]])]
        assert again == [[[7, 8]], [[1, 2]]]
        assert list(loader([])) == []
        assert loader.wait_seconds > 0


def test_workers_give_the_same_samples(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(6):
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    images = ImageList.from_names(tmp_path, [f"{k}.png" for k in range(6)], range(6))
    dataset = ClassificationDataset(images, TrainTransform((16, 16), erase_probability=0.5), seed=3)
    samples = [[Sample(k, 100 + k) for k in (5, 1, 3)], [Sample(k, 200 + k) for k in (0, 4, 2)]]
    here = list(Loader(dataset, num_workers=0)(samples))
    with Loader(dataset, num_workers=2) as loader:
        there = list(loader(samples))
    for first, second in zip(here, there, strict=True):
        assert set(first) == {"image", "label", "index", "erase"}
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_workers_have_no_paddle_and_are_reused(fakes):
    import paddle  # noqa: F401  # so that a worker could inherit it

    with Loader(fakes.Process(), num_workers=2) as loader:
        batches = [*loader(EvalSampler(6, batch_size=1)), *loader(EvalSampler(6, batch_size=1))]
        workers = {int(batch["pid"][0]) for batch in batches}
    assert os.getpid() not in workers and len(workers) == 2  # the second call starts no new ones
    assert not any(batch["has_paddle"][0] for batch in batches)
    assert {int(batch["threads"][0]) for batch in batches} == {
        2
    }  # one works, one waits for the end of the parent
    assert all(batch["blocks_signals"][0] for batch in batches)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_workers_end_for_their_pool_and_not_at_a_sigterm(fakes):
    with Loader(fakes.Numbers(), num_workers=1) as loader:
        batches = EvalSampler(6, batch_size=1)
        assert len(list(loader(batches))) == 6
        (worker,) = loader._workers.values()
        subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # as a batch system does
        assert len(list(loader(batches))) == 6
        worker.terminate()
        worker.join(20)
        assert not worker.is_alive()
        with pytest.raises(WorkerError, match="a data worker was killed"):
            list(loader(batches))


def test_read_ahead_is_bounded(fakes):
    asked = []

    def batches():
        for index in range(20):
            asked.append(index)
            yield [Sample(index, 0)]

    with Loader(fakes.Numbers(), num_workers=2, prefetch=3) as loader:
        iterator = loader(batches())
        next(iterator)
        assert len(asked) == 6
        next(iterator)
        assert len(asked) == 7


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_exception_keeps_its_type_and_message(fakes, num_workers):
    with Loader(fakes.Unreadable(), num_workers=num_workers) as loader:
        with pytest.raises(ImageError, match=r"^third.jpg: an empty file \(0 bytes\)$"):
            list(loader(EvalSampler(6, batch_size=2)))
        assert len(list(loader(EvalSampler(3, batch_size=2)))) == 2  # the loader can still be used


@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_that_runs_out_is_not_an_unreadable_image(fakes, num_workers):
    with (
        Loader(fakes.TooLarge(), num_workers=num_workers) as loader,
        pytest.raises(
            WorkerError,
            match=r"^out of memory while reading number 3: lower DATA.NUM_WORKERS, or DATA.MAX_PIX",
        ),
    ):
        list(loader(EvalSampler(6, batch_size=2)))


def test_a_killed_worker_is_an_error(fakes):
    with Loader(fakes.Deadly(), num_workers=2) as loader:
        with pytest.raises(RuntimeError, match="a data worker was killed .*lower DATA.NUM_WORKERS"):
            list(loader(EvalSampler(6, batch_size=2)))
        # Those of the lost pool are closed: their numbers may be those of other open files.
        assert loader._slots._free == []
        assert len(list(loader(EvalSampler(2, batch_size=2)))) == 1  # new workers


def test_a_stuck_worker_is_an_error_and_is_killed(fakes, monkeypatch):
    monkeypatch.setattr("beit.data.loader._GRACE", 0.1)
    loader = Loader(fakes.Slow(), num_workers=2)
    list(loader(EvalSampler(2, batch_size=2)))  # starts the workers
    begin, loader.timeout = time.monotonic(), 0.5
    with pytest.raises(
        RuntimeError, match="DATA.WORKER_TIMEOUT=0.5 seconds; it begins with number 2, number 3"
    ):
        list(loader([[Sample(2, 0), Sample(3, 0)]]))
    workers = list(loader._pool._processes)
    loader.close()
    assert time.monotonic() - begin < fakes.Slow.SECONDS / 2
    wait_until_none_runs(workers)


def test_the_private_names_of_the_process_pool_exist():
    """`_processes`: process id to process once there is work. `_result_queue._writer`: our end of the pipe."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pid = pool.submit(os.getpid).result()
        assert pool._processes[pid].is_alive()
        assert not pool._result_queue._writer.closed
    # A new process imports the main script if one of these entries names it.
    names = {"init_main_from_name", "init_main_from_path"}
    assert names & set(spawn.get_preparation_data("worker"))
    with _hidden_main():
        assert not names & set(spawn.get_preparation_data("worker"))


def test_leaving_early_ends_the_workers(fakes):
    with Loader(fakes.Process(), num_workers=2) as loader:
        long = [Sample(0, 0)] * 3000  # 60 seconds
        for batch in loader([[Sample(0, 0)], *[long] * 4]):
            worker = int(batch["pid"][0])
            begin = time.monotonic()
            break
    assert time.monotonic() - begin < 30  # two of the long batches are being read
    wait_until_none_runs([worker])
    loader.close()  # a second call has no effect


def test_no_more_workers_than_cpus_are_started(fakes):
    with pytest.warns(UserWarning, match="DATA.NUM_WORKERS=9, but 4 CPUs: 4 used"):
        assert Loader(fakes.Numbers(), num_workers=9).num_workers == 4


@pytest.mark.parametrize(("cpus", "ranks", "expected"), [(2, 1, 2), (64, 1, 4), (6, 2, 3), (2, 4, 1)])
def test_without_a_stated_number_the_workers_fit_the_cores_of_the_rank_silently(
    monkeypatch, recwarn, cpus, ranks, expected
):
    """Half of the ranks here are on another machine, whose cores do not count."""
    here, there = ([f"10.0.0.{host}:{port}" for port in range(ranks)] for host in (1, 2))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
    monkeypatch.setenv("PADDLE_CURRENT_ENDPOINT", here[-1])
    monkeypatch.setenv("PADDLE_TRAINER_ENDPOINTS", ",".join([*here, *there]))
    assert worker_count(get_config().DATA.NUM_WORKERS) == expected
    assert not recwarn.list
    stated = get_config(opts=["DATA.NUM_WORKERS", 4]).DATA.NUM_WORKERS
    assert worker_count(stated) == min(4, cpus) and len(recwarn.list) == (cpus < 4)


SCRIPT = """
import sys, time
sys.path[:0] = {paths!r}
from beit.data.loader import Loader
from beit.data.sampler import EvalSampler
import fake_datasets
loader = Loader(fake_datasets.Process(), num_workers=1)
(batch,) = loader(EvalSampler(1, batch_size=1))
print(int(batch["pid"][0]), flush=True)
time.sleep(60)
"""


def test_workers_die_with_a_killed_parent(tmp_path):
    """The script has no `if __name__ == "__main__"`, so workers that imported it would start workers themselves."""
    script = tmp_path / "main.py"
    script.write_text(SCRIPT.format(paths=[str(HERE.parents[1]), str(HERE)]))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        was_running = is_running(worker)
        process.send_signal(signal.SIGKILL)
    assert was_running
    wait_until_none_runs([worker])


def wait_until_none_runs(pids):
    deadline = time.monotonic() + 60
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(pid):
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
