"""Batches in order, read by worker processes.

`paddle.io.DataLoader` is not used: its timeout does not fire while workers live, the cause of a worker's
failure does not arrive, and a killed run leaves workers and shared memory behind. The standard library's
process pool has none of these, and 8-bit batches are small enough for its pipes.
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
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from typing import Protocol

import numpy as np

from beit.data.sampler import Sample
from beit.parallel.signals import blocked_for_children

Batch = dict[str, np.ndarray]

_GRACE = 2.0  # seconds for workers to finish the image at hand before they are killed
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(RuntimeError):
    """A data worker was killed or stands still: a fault of the machine or its disks."""


class Dataset(Protocol):
    """What the loader needs; see `ImageDataset`."""

    def __getitem__(self, sample: Sample, /) -> dict[str, np.ndarray]: ...

    def describe(self, sample: Sample, /) -> str: ...


def collate(items: Sequence[dict[str, np.ndarray]]) -> Batch:
    """Items with the same names become arrays with a leading batch axis."""
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


class Loader:
    """Call it with batches of samples and iterate over the collated batches, in the same order.

    The workers start with the first batch, stay for further calls, and end with `close()`, with the `with`
    block, or with this process, however that ends. They import neither Paddle nor the main script, so the
    classes of the data set must live in an importable module. An error in a worker is raised here with its
    own type and message.

    Args:
        dataset: sent to each worker once.
        num_workers: processes; 0 reads in this one. More than there are CPUs are not started.
        prefetch: batches per worker that may be ready or under way.
        timeout: seconds to wait for one batch; 0 for ever.

    Attributes:
        wait_seconds: time spent waiting for data so far, all calls together.

    Raises:
        WorkerError: while iterating, a worker was killed, or a batch took longer than `timeout`.
    """

    def __init__(
        self, dataset: Dataset, *, num_workers: int, prefetch: int = 2, timeout: float = 0.0
    ) -> None:
        self.dataset = dataset
        self.num_workers = _cap_workers(num_workers)
        self.prefetch = prefetch
        self.timeout = timeout
        self.wait_seconds = 0.0
        self._pool: ProcessPoolExecutor | None = None
        self._stop: Event | None = None
        self._workers: dict[int, BaseProcess] = {}

    def __call__(self, batches: Iterable[Sequence[Sample]]) -> Iterator[Batch]:
        """The collated batches. Leaving the loop early drops what was read ahead."""
        if self.num_workers == 0:
            return self._read_here(batches)
        return self._read_ahead(batches)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, each after its current image; stuck ones are killed. A later call starts anew."""
        if self._pool is None or self._stop is None:
            return
        pool, self._pool = self._pool, None
        self._stop.set()
        # private names: kill_workers() exists from Python 3.14 on
        workers, results = list(self._workers.values()), pool._result_queue
        self._workers = {}
        pool.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + _GRACE
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
        # else the pool waits for ever for the rest of what a killed worker was sending
        results._writer.close()  # type: ignore[attr-defined]

    def _end_broken(self) -> None:
        """Kill what is left of a pool that has lost a worker: it holds its lock until they are gone."""
        for worker in self._workers.values():
            worker.kill()
        self.close()

    def _read_here(self, batches: Iterable[Sequence[Sample]]) -> Iterator[Batch]:
        for samples in batches:
            begin = time.perf_counter()
            batch = collate([self.dataset[sample] for sample in samples])
            self.wait_seconds += time.perf_counter() - begin
            yield batch

    def _read_ahead(self, batches: Iterable[Sequence[Sample]]) -> Iterator[Batch]:
        pending: deque[tuple[Sequence[Sample], Future[Batch]]] = deque()
        source = iter(batches)
        try:
            while True:
                while len(pending) < self.num_workers * self.prefetch:
                    samples = next(source, None)
                    if samples is None:
                        break
                    pending.append((samples, self._submit(samples)))
                if not pending:
                    return
                yield self._wait(*pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()

    def _wait(self, samples: Sequence[Sample], future: Future[Batch]) -> Batch:
        begin = time.perf_counter()
        try:
            return future.result(self.timeout or None)
        except FutureTimeoutError as error:
            if future.done():  # the dataset's own TimeoutError: the same class from Python 3.11 on
                raise
            paths = ", ".join(self.dataset.describe(sample) for sample in samples[:3])
            raise WorkerError(
                f"no batch within DATA.WORKER_TIMEOUT={self.timeout:g} seconds; it begins with {paths}"
            ) from error
        except BrokenProcessPool as error:
            self._end_broken()
            raise WorkerError(_KILLED) from error
        finally:
            self.wait_seconds += time.perf_counter() - begin

    def _submit(self, samples: Sequence[Sample]) -> Future[Batch]:
        if self._pool is None:
            self._start()
        assert self._pool is not None
        try:
            with _hidden_main():  # the pool starts its workers one by one, when there is work
                future = self._pool.submit(_load_batch, samples)
            # The pool forgets them when one dies, and ends the others by the SIGTERM that they do not hear.
            self._workers |= self._pool._processes or {}
            return future
        except BrokenProcessPool as error:
            self._end_broken()
            raise WorkerError(_KILLED) from error

    def _start(self) -> None:
        method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
        context = multiprocessing.get_context(method)
        if method == "forkserver":
            _start_fork_server()
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


_KILLED = (
    "a data worker was killed or could not start. If nothing is printed above, the system did it, mostly for "
    "want of memory: lower DATA.NUM_WORKERS or DATA.BATCH_SIZE"
)


def _cap_workers(num_workers: int) -> int:
    available = len(os.sched_getaffinity(0)) if sys.platform == "linux" else (os.cpu_count() or 1)
    if num_workers > available:
        warnings.warn(f"DATA.NUM_WORKERS={num_workers}, but {available} CPUs: {available} used", stacklevel=3)
    return min(num_workers, available)


# ---- how workers come to be


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Start processes that do not import the main script again, which would bring Paddle into each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_fork_server() -> None:
    """Start the process that workers are forked from: what a worker needs is imported there, once.

    It is single-threaded, also in NumPy's linear algebra, so that forking it is safe.
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
    """What this process holds, if it is a worker."""

    dataset: Dataset
    stop: Event


def _start_worker(dataset: Dataset, stop: Event) -> None:
    _die_with_parent()
    # ImageNet holds JPEGs with damaged EXIF blocks whose pictures are sound
    warnings.filterwarnings("ignore", "(?i).*corrupt exif", UserWarning)
    _Worker.dataset, _Worker.stop = dataset, stop


def _die_with_parent() -> None:
    """End this process when the main process has ended, even by SIGKILL.

    The fork server, not the main process, is the parent the system knows of, and it lives while its workers do:
    prctl's parent-death signal would never come.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def _load_batch(samples: Sequence[Sample]) -> Batch:
    items = []
    for sample in samples:
        if _Worker.stop.is_set():
            return {}
        items.append(_Worker.dataset[sample])
    return collate(items)
