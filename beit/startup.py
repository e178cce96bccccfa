"""What Paddle needs at process start to be fast on a CPU. Floor 0; imports no Paddle until it is asked to tune it."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

SWITCH = "BEIT_TUNE_CPU"
"""Environment variable: 0 leaves everything as it is."""

TUNED = ("MKL_DEBUG_CPU_TYPE", "KMP_BLOCKTIME")
"""Environment variables that `before_paddle` may set."""

# mallopt(3) parameters, malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -2, -3, -8


def given_threads() -> str | None:
    """`OMP_NUM_THREADS` as the user set it, if at all: Paddle writes 1 into the environment when it is imported."""
    return _GIVEN_THREADS


def _find_given_threads() -> str | None:
    initial = Path("/proc/self/environ")
    if "paddle" not in sys.modules or not initial.is_file():
        return os.environ.get("OMP_NUM_THREADS")
    lines = initial.read_text(encoding="utf-8", errors="replace").split("\0")
    return next((line.partition("=")[2] for line in lines if line.startswith("OMP_NUM_THREADS=")), None)


_GIVEN_THREADS = _find_given_threads()


def before_paddle() -> None:
    """Environment that Paddle's libraries read while they are loaded; variables that are set stay as they are.

    Call it before Paddle is imported; the commands of this package do.
    """
    if not _is_wanted():
        return
    if _cpu_vendor() == "AuthenticAMD":
        # Paddle's MKL takes a slow path on AMD processors unless it is told to use AVX2.
        os.environ.setdefault("MKL_DEBUG_CPU_TYPE", "5")
    # OpenMP threads that spin after each operator steal the core from the other OpenMP runtime of the process.
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def tune_cpu() -> str:
    """Set the allocator and Paddle for work on the CPU; one line that says what was done.

    The commands do this by themselves. In a program of your own call `beit.tune_cpu()` before the first
    `import paddle`, so that what Paddle's libraries read while they are loaded is set too (`before_paddle`).
    Matrix products run on all cores (or `OMP_NUM_THREADS`); blocks divide their work among them, in training the batch,
    in inference the tokens of an image; large blocks of memory stay with the process instead of being mapped and
    page-faulted anew for every tensor; views are contiguous copies, which Paddle's CPU kernels take without strided
    access. `BEIT_TUNE_CPU=0` switches it off, for programs that go backward twice through one loss, say: Paddle 3.3
    crashes when there is a `PyLayer` in it.
    """
    if not _is_wanted():
        return f"CPU settings untouched ({SWITCH}=0)"
    if "paddle" not in sys.modules:
        before_paddle()
    from beit import cpu_threads

    count = _take_threads()
    done = [f"{count} threads, blocks divide their work among them" if count > 1 else "1 thread"]
    cpu_threads.divide_blocks()
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 64 << 20)
        mallopt(_M_ARENA_MAX, 1)  # the heaps of other threads are small and given back
        done.append("large memory blocks are kept")
    if "FLAGS_use_stride_kernel" not in os.environ:
        import paddle

        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        done.append("no strided views")
    done += [f"{name}={os.environ[name]}" for name in TUNED if name in os.environ]
    return f"CPU settings: {', '.join(done)} ({SWITCH}=0 leaves them alone)"


def _take_threads() -> int:
    """Let matrix products have all cores, unless the user has said how many; Paddle starts with one thread."""
    from beit import cpu_threads

    if _GIVEN_THREADS is None:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["OMP_NUM_THREADS"] = str(count)  # for threads to come, if nothing has run yet
        cpu_threads.set_threads(count)  # for this one
    return cpu_threads.threads()


def _is_wanted() -> bool:
    return os.environ.get(SWITCH, "1") != "0"


def _cpu_vendor() -> str:
    """`vendor_id` of the first processor; empty where the system does not say."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
