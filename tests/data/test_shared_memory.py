from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import numpy as np
import pytest

from beit.data import loader as loader_module
from beit.data import shared_memory
from beit.data.loader import Loader, collate
from beit.data.sampler import EvalSampler, Sample
from beit.data.shared_memory import Layout, Slots, write

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="anonymous files and /proc are Linux's")
HERE = Path(__file__).parent


@pytest.fixture
def numbers(monkeypatch):
    """A data set that this process and workers can import."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    import fake_datasets

    return fake_datasets.Numbers()


def items(count: int, side: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(side)
    return [
        {"image": rng.integers(0, 256, (3, side, side), np.uint8), "label": np.asarray(k), "box": np.float32([k, 0.5])}
        for k in range(count)
    ]  # fmt: skip


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("sizes", [(5, 9, 3), (9, 5, 4)])  # the slot grows, or a part of it is used
def test_equal_to_collate(sizes):
    slots = Slots()
    for side in sizes:
        slot = slots.take()
        batch, expected = slots.read(slot, write(slot, items(4, side))), collate(items(4, side))
        assert batch.keys() == expected.keys()
        for name, array in expected.items():
            assert batch[name].dtype == array.dtype
            np.testing.assert_array_equal(batch[name], array)
        del batch
    slots.close()


def test_a_slot_is_given_back_when_its_arrays_are_gone():
    shared_memory._maps.clear()  # this process is the worker, too
    before = open_files()
    slots = Slots()
    first = slots.take()
    batch = slots.read(first, write(first, items(2, 4)))
    second = slots.take()
    assert second != first
    part = batch["image"][0, 0]
    del batch
    assert slots.take() not in (first, second)
    expected = items(2, 4)[0]["image"][0]
    np.testing.assert_array_equal(part, expected)
    slots.close()
    np.testing.assert_array_equal(part, expected)  # the memory lives as long as its arrays
    del part
    shared_memory._maps.clear()
    assert open_files() == before


def test_the_loader_reuses_slots_and_overwrites_no_batch_in_use(numbers):
    with Loader(numbers, num_workers=2) as loader:
        for batch in loader(EvalSampler(100, batch_size=2)):
            del batch
        assert len(loader._slots._files) <= loader.num_workers * loader.prefetch + 2
        for batch in loader(EvalSampler(100, batch_size=2)):
            del batch
            break  # workers still write batches that nobody will read
        kept = list(loader(EvalSampler(60, batch_size=2)))
    assert np.concatenate([batch["index"] for batch in kept]).tolist() == list(range(60))


def test_where_files_of_other_processes_are_hidden_the_pipe_is_used(numbers, monkeypatch):
    monkeypatch.setattr(loader_module, "_Worker", type("Worker", (), {"dataset": numbers, "stop": NotSet()}))
    batch = loader_module._load_batch([Sample(7, 8)], "/proc/0/fd/3")
    assert {name: array.tolist() for name, array in batch.items()} == {"index": [7], "pair": [[7, 8]]}
    slots = Slots()
    slot = slots.take()
    assert isinstance(loader_module._load_batch([Sample(7, 8)], slot), Layout)
    slots.close()


def test_where_files_have_a_limit_the_pipe_is_used(numbers, monkeypatch):
    monkeypatch.setattr(loader_module, "_Worker", type("Worker", (), {"dataset": numbers, "stop": NotSet()}))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    slots = Slots()
    slot = slots.take()
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))
    try:
        batch = loader_module._load_batch([Sample(7, 8)], slot)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {name: array.tolist() for name, array in batch.items()} == {"index": [7], "pair": [[7, 8]]}
    slots.close()


class NotSet:
    def is_set(self) -> bool:
        return False
