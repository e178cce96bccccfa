"""A data loader whose batches are read by worker processes and arrive in order.

`paddle.io.DataLoader` is not used: its timeout does not fire while its workers are alive, it does not pass on the
exception that ended a worker, and a killed run leaves workers and shared memory behind. The process pool of the
standard library has none of these faults. Batches go through memory shared with the workers
(`beit.data.shared_memory`), because its pipe is slow.

The pool has no public way to end workers that are stuck (before Python 3.14) or to start them without importing the
main script, so this module uses private names of it. Each use has a comment, and a test lists them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import sys
import threading
import time
import types
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import BaseContext, ForkServerContext, ForkServerProcess
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Protocol

import numpy as np
from yacs.config import CfgNode

from beit.cpu import cores, cores_per_rank
from beit.data.sampler import Sample
from beit.data.shared_memory import Layout, Slots, write
from beit.parallel.signals import blocked_for_children

Batch = dict[str, np.ndarray]

_DEFAULT_WORKERS = 4
_GRACE = 2.0  # seconds for workers to finish their current image before they are killed
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(RuntimeError):
    """A data worker was killed, has no memory, or does not answer: a fault of the machine or its disks."""


class Dataset(Protocol):
    """The part of `ImageDataset` that the loader uses."""

    def __getitem__(self, sample: Sample, /) -> dict[str, np.ndarray]: ...

    def describe(self, sample: Sample, /) -> str: ...


def collate(items: Sequence[dict[str, np.ndarray]]) -> Batch:
    """Stack arrays of the same name along a new leading batch axis."""
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def _read(dataset: Dataset, sample: Sample) -> dict[str, np.ndarray]:
    try:
        return dataset[sample]
    except MemoryError as error:
        raise WorkerError(
            f"out of memory while reading {dataset.describe(sample)}: lower DATA.NUM_WORKERS, or DATA.MAX_PIXELS so that "
            "large images are refused"
        ) from error


class Loader:
    """Called with batches of samples, yields the collated batches in the same order.

    The workers start with the first batch and serve further calls. They end with `close()`, with the `with` block,
    or with this process, even if it is killed. They import neither Paddle nor the main script, so the class of the
    data set must be defined in an importable module. An exception in a worker is raised here with its own type and
    message.

    Args:
        dataset: pickled for each worker once.
        num_workers: processes, see `worker_count`; 0 reads in this process.
        prefetch: batches per worker that are read ahead.
        timeout: seconds to wait for one batch; 0 waits for ever.

    Attributes:
        wait_seconds: time spent waiting for data in all calls so far.

    Raises:
        WorkerError: while iterating, a worker was killed or ran out of memory, or a batch took longer than `timeout`.
    """

    def __init__(
        self, dataset: Dataset, *, num_workers: int | None, prefetch: int = 2, timeout: float = 0.0
    ) -> None:
        self.dataset = dataset
        self.num_workers = worker_count(num_workers)
        self.prefetch = prefetch
        self.timeout = timeout
        self.wait_seconds = 0.0
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Event | None = None
        self._slots = Slots()
        self._workers: dict[int, BaseProcess] = {}

    def __call__(self, batches: Iterable[Sequence[Sample]]) -> Iterator[Batch]:
        """The collated batches. Leaving the loop early discards the batches that were read ahead."""
        if self.num_workers == 0:
            return self._read_here(batches)
        return self._read_ahead(batches)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers after their current image; kill those that are stuck. A later call starts new ones."""
        if self._pool is None or self._stop is None:
            return
        pool, self._pool = self._pool, None
        self._stop.set()
        # Private: the queue from which the pool's own thread reads results.
        workers, results = list(self._workers.values()), pool._result_queue
        self._workers = {}
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join(_GRACE)
        self._slots.close()
        self._slots = Slots()
        # Private: this process's copy of the write end of the queue's pipe. A worker killed while it sends leaves half a
        # result in the pipe; with all write ends closed, the pool's thread ends instead of waiting for the rest.
        results._writer.close()  # type: ignore[attr-defined]

    def _end_broken(self) -> None:
        """Kill the other workers of a pool that has lost one: it holds its lock until all have ended."""
        for worker in self._workers.values():
            worker.kill()
        self.close()

    def _read_here(self, batches: Iterable[Sequence[Sample]]) -> Iterator[Batch]:
        for samples in batches:
            begin = time.perf_counter()
            batch = collate([_read(self.dataset, sample) for sample in samples])
            self.wait_seconds += time.perf_counter() - begin
            yield batch

    def _read_ahead(self, batches: Iterable[Sequence[Sample]]) -> Iterator[Batch]:
        pending: deque[_Pending] = deque()
        source = iter(batches)
        try:
            while True:
                while len(pending) < self.num_workers * self.prefetch:
                    samples = next(source, None)
                    if samples is None:
                        break
                    pending.append(self._submit(samples))
                if not pending:
                    return
                yield self._wait(pending.popleft())
        finally:
            for batch in pending:
                batch.future.cancel()
                self._give_back(batch)

    def _give_back(self, batch: _Pending) -> None:
        """Return the slot of a batch that nobody will read, once no worker can write to it."""
        batch.future.add_done_callback(lambda _: batch.slots.give_back(batch.slot))

    def _wait(self, batch: _Pending) -> Batch:
        begin = time.perf_counter()
        try:
            result = batch.future.result(self.timeout or None)
            if isinstance(result, Layout):
                assert batch.slot is not None
                return batch.slots.read(batch.slot, result)
            self._give_back(batch)
            return result
        except FutureTimeoutError as error:
            # A TimeoutError that the dataset raised: the same class from Python 3.11 on.
            if batch.future.done():
                raise
            paths = ", ".join(self.dataset.describe(sample) for sample in batch.samples[:3])
            raise WorkerError(
                f"no batch within DATA.WORKER_TIMEOUT={self.timeout:g} seconds; it begins with {paths}"
            ) from error
        except BrokenProcessPool as error:
            self._end_broken()
            raise WorkerError(_KILLED) from error
        finally:
            self.wait_seconds += time.perf_counter() - begin

    def _submit(self, samples: Sequence[Sample]) -> _Pending:
        if self._pool is None:
            self._start()
        assert self._pool is not None
        slot = self._slots.take()
        try:
            with _hidden_main():  # `submit` starts the workers, one by one as they are needed
                future = self._pool.submit(_load_batch, samples, slot)
            # Private: the pool's dict of worker processes. It is copied because a broken pool drops it.
            self._workers |= self._pool._processes or {}
            return _Pending(samples, future, self._slots, slot)
        except BrokenProcessPool as error:
            self._end_broken()
            raise WorkerError(_KILLED) from error

    def _start(self) -> None:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context: BaseContext = multiprocessing.get_context(method)
        if method == "forkserver":
            _start_fork_server()
            context = _WorkerContext()
        try:
            self._stop = context.Event()
            self._pool = ProcessPoolExecutor(
                self.num_workers,
                mp_context=context,
                initializer=_start_worker,
                initargs=(self.dataset, self._stop),
            )
        except OSError as error:
            raise WorkerError(
                f"the data workers cannot be started: {error.strerror or error}. Their locks need some 100 KB of "
                "/dev/shm: give it more (docker run --shm-size), or say DATA.NUM_WORKERS 0"
            ) from error


def build_loader(config: CfgNode, dataset: Dataset) -> Loader:
    """The loader of a data set with the workers and the timeout of DATA.*."""
    return Loader(dataset, num_workers=config.DATA.NUM_WORKERS, timeout=config.DATA.WORKER_TIMEOUT)


@dataclass(frozen=True)
class _Pending:
    """A batch that a worker reads, and the memory it may use."""

    samples: Sequence[Sample]
    future: Future[Batch | Layout]
    slots: Slots
    slot: str | None


_KILLED = (
    "a data worker was killed or could not start. If nothing is printed above, the system killed it, usually because "
    "memory ran out: lower DATA.NUM_WORKERS or DATA.BATCH_SIZE"
)


def worker_count(stated: int | None) -> int:
    """Data workers of this rank for `DATA.NUM_WORKERS`: at most one per CPU core, with a warning if more are stated.

    Args:
        stated: 0: none, this process reads; None: 4, or the cores per rank where they are fewer.
    """
    if stated is None:
        return min(_DEFAULT_WORKERS, cores_per_rank())
    available = cores()
    if stated > available:
        warnings.warn(f"DATA.NUM_WORKERS={stated}, but {available} CPUs: {available} used", stacklevel=3)
    return min(stated, available)


# ---- starting workers


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep processes started in this block from importing the main script, and Paddle with it.

    multiprocessing imports the module that `sys.modules["__main__"]` names in every new process; here it finds an
    empty one.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class _WorkerProcess(ForkServerProcess):
    """A worker that its pool can end: the pool of a killed worker sends the others SIGTERM, which workers block.

    In newer Pythons (3.12.1, 3.13.0) the pool then waits for their end with the lock that the next `submit` needs.
    """

    terminate = ForkServerProcess.kill


class _WorkerContext(ForkServerContext):
    Process = _WorkerProcess


def _start_fork_server() -> None:
    """Start the process that workers are forked from. It imports the modules that all workers need.

    It has a single thread, also in NumPy's linear algebra, so that forking it is safe.
    """
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    try:
        with _hidden_main(), blocked_for_children():
            multiprocessing.forkserver.set_forkserver_preload(["beit.data.dataset"])
            multiprocessing.forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- inside a worker


class _Worker:
    """The data set and the stop event of this worker process."""

    dataset: Dataset
    stop: Event


def _start_worker(dataset: Dataset, stop: Event) -> None:
    _die_with_parent()
    # Some JPEGs of ImageNet have damaged EXIF blocks; their pixels are intact.
    warnings.filterwarnings("ignore", "(?i).*corrupt exif", UserWarning)
    _Worker.dataset, _Worker.stop = dataset, stop


def _die_with_parent() -> None:
    """End this process when the main process has ended, even by SIGKILL.

    The parent of a worker is the fork server, which lives as long as its workers, so prctl's parent-death signal
    would never arrive.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def _load_batch(samples: Sequence[Sample], slot: str | None) -> Batch | Layout:
    items = []
    for sample in samples:
        if _Worker.stop.is_set():
            return {}
        items.append(_read(_Worker.dataset, sample))
    if slot is not None:
        # Some sandboxes hide other processes' files, and a limit of file sizes (`ulimit -f`) counts for memory files too:
        # then the batch goes through the pipe.
        with contextlib.suppress(OSError):
            return write(slot, items)
    return collate(items)
