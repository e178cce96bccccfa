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
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


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
    Large blocks stay with the process instead of being mapped and page-faulted anew for every tensor, and views are
    contiguous copies, which Paddle's CPU kernels take without strided access. `BEIT_TUNE_CPU=0` switches it off.
    """
    if not _is_wanted():
        return f"CPU settings untouched ({SWITCH}=0)"
    if "paddle" not in sys.modules:
        before_paddle()
    done = []
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(_M_TOP_PAD, 64 << 20)
        done.append("large memory blocks are kept")
    if "FLAGS_use_stride_kernel" not in os.environ:
        import paddle

        paddle.set_flags({"FLAGS_use_stride_kernel": False})
        done.append("no strided views")
    done += [f"{name}={os.environ[name]}" for name in TUNED if name in os.environ]
    return f"CPU settings: {', '.join(done)} ({SWITCH}=0 leaves them alone)"


def _is_wanted() -> bool:
    return os.environ.get(SWITCH, "1") != "0"


def _cpu_vendor() -> str:
    """`vendor_id` of the first processor; empty where the system does not say."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return ""
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")
