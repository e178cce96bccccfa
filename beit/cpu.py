"""Process settings that make Paddle fast on a CPU, and inference on parts of a batch in threads.

The model does not import this module. Paddle is imported only inside functions: `before_paddle` must run first.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paddle import Tensor

SWITCH = "BEIT_TUNE_CPU"
"""Environment variable: 0 switches off everything in this module."""

TUNED = ("MKL_DEBUG_CPU_TYPE", "KMP_BLOCKTIME")
"""Environment variables that `before_paddle` may set."""

# mallopt(3) parameters, malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8

_OPENMP = ("libiomp", "libgomp", "libomp")  # Paddle's kernels and its matrix library may link different ones

_num_threads = 1  # threads that `split_batch` may use; set by `tune_cpu`


# ---- settings -----------------------------------------------------------------------------------------------------


def before_paddle() -> None:
    """Set environment variables that Paddle's libraries read while they load; variables already set stay.

    Call it before the first `import paddle`; the commands of this package do.
    """
    if not _is_enabled():
        return
    if cpu_vendor() == "AuthenticAMD":
        # Without it Paddle's MKL does not use AVX2 on AMD processors.
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    # OpenMP threads that spin after an operator would take the core from the other OpenMP runtime of the process.
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def tune_cpu() -> str:
    """Set threads, memory allocator and Paddle flags for work on a CPU; returns one line that lists what was set.

    The commands call it themselves. In your own program call `beit.tune_cpu()` before the first `import paddle`, so
    that the variables of `before_paddle` are set in time. It does four things:

    * matrix products use all cores, or `OMP_NUM_THREADS` if that is set;
    * `split_batch` may use that many threads (inference only);
    * the allocator reuses large blocks instead of mapping new pages for each large tensor;
    * views are contiguous copies, because Paddle's CPU kernels are slow on strided tensors.

    `BEIT_TUNE_CPU=0` in the environment switches all of it off.
    """
    global _num_threads
    if not _is_enabled():
        return f"CPU settings unchanged ({SWITCH}=0)"
    if "paddle" not in sys.modules:
        before_paddle()
    import paddle

    _num_threads = _use_all_cores()
    done = [f"{_num_threads} thread{'s' if _num_threads > 1 else ''}"]
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 64 << 20)
        mallopt(_M_ARENA_MAX, 1)  # the arenas of other threads are small and are returned to the system
        done.append("large memory blocks are kept")
    if "FLAGS_use_stride_kernel" not in os.environ:
        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        done.append("no strided views")
    done += [f"{name}={os.environ[name]}" for name in TUNED if name in os.environ]
    return f"CPU settings: {', '.join(done)} ({SWITCH}=0 switches them off)"


def free_memory() -> None:
    """Return the memory of freed blocks to the system, which `tune_cpu` keeps for further tensors (glibc)."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def given_threads() -> str | None:
    """The user's `OMP_NUM_THREADS`, or None: Paddle writes 1 into the environment when it is imported."""
    return _GIVEN_THREADS


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_per_rank() -> int:
    """CPU cores for each rank, at least 1: the ranks on this machine share those that this process may use."""
    host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").rpartition(":")[0]
    places = os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")
    ranks = sum(place.rpartition(":")[0] == host for place in places)
    return max(1, cores() // max(1, ranks))


def _find_given_threads() -> str | None:
    initial = Path("/proc/self/environ")
    if "paddle" not in sys.modules or not initial.is_file():
        return os.environ.get("OMP_NUM_THREADS")
    lines = initial.read_text(encoding="utf-8", errors="replace").split("\0")
    return next((line.partition("=")[2] for line in lines if line.startswith("OMP_NUM_THREADS=")), None)


_GIVEN_THREADS = _find_given_threads()


def _use_all_cores() -> int:
    """Let matrix products use all cores unless the user set a number; returns the number of threads."""
    if _GIVEN_THREADS is None:
        os.environ["OMP_NUM_THREADS"] = str(cores())  # for threads that start later
        set_threads(cores())  # for this thread
    return max((library.omp_get_max_threads() for library in _openmp()), default=1)


def _is_enabled() -> bool:
    return os.environ.get(SWITCH, "1") != "0"


def cpu_vendor() -> str:
    """`vendor_id` of the first processor; empty where the system does not provide it."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


# ---- inference on parts of a batch in threads ------------------------------------------------------------------------


def split_batch(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`function(images)` without gradients, computed on parts of the batch in threads after `tune_cpu`.

    Of Paddle's CPU kernels only matrix products use several cores; on parts of a batch all kernels run on all cores.
    On other devices, and without `tune_cpu`, it is one call.

    Args:
        function: from `[b, ...]` to `[b, ...]`, for any b; it treats each image independently and has no side effects.
        images: `[B, ...]`.
    """
    import paddle

    def compute(part: Tensor) -> Tensor:
        with paddle.no_grad():  # the gradient mode belongs to the thread
            return function(part)

    batch = images.shape[0]
    parts = min(batch, _num_threads) if images.place.is_cpu_place() else 1
    if parts < 2:
        return compute(images)
    sizes = [batch // parts + (part < batch % parts) for part in range(parts)]
    return paddle.concat(list(_pool(parts, _num_threads // parts).map(compute, paddle.split(images, sizes))))


@functools.cache
def _pool(parts: int, threads_per_part: int) -> ThreadPoolExecutor:
    # OpenMP's thread limit belongs to the thread that sets it.
    return ThreadPoolExecutor(
        parts, thread_name_prefix="beit-part", initializer=set_threads, initargs=(threads_per_part,)
    )


def set_threads(count: int) -> None:
    """Set how many OpenMP threads the operators called from this thread use."""
    for library in _openmp():
        library.omp_set_num_threads(count)


@functools.cache
def _openmp() -> tuple[ctypes.CDLL, ...]:
    """The OpenMP libraries that this process has loaded; empty on systems without `/proc`."""
    maps = Path("/proc/self/maps")
    if sys.platform != "linux" or not maps.is_file():
        return ()
    loaded = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text(errors="replace").splitlines()}
    return tuple(ctypes.CDLL(path) for path in sorted(loaded) if Path(path).name.startswith(_OPENMP))
