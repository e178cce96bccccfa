"""Versions, the processor, and the GPUs with their driver and libraries."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import paddle

from beit.cpu import cores, tune_cpu
from beit.doctor.findings import Finding
from beit.install import GPU_LINE, PADDLE_RANGE, is_tested, paddle_version
from beit.version import VERSION

_PACKAGES = ("numpy", "pillow", "yacs", "matplotlib", "visualdl")
_OPTIONAL = ("gradio", "onnx", "onnxruntime", "openvino", "pyarrow", "shtab")
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")
"""Instruction sets that Paddle's and oneDNN's matrix products use."""
_GIB = 2**30


def versions() -> Iterator[Finding]:
    """Versions of this package, of Python and of the libraries."""
    yield Finding("versions", "beit", VERSION)
    yield Finding("versions", "Python", f"{platform.python_version()} on {platform.platform()}")
    found = paddle_version() or paddle.__version__
    if is_tested(found):
        yield Finding("versions", "Paddle", found)
    else:
        yield Finding("versions", "Paddle", found, "note", f"the tests run on Paddle {PADDLE_RANGE}")
    for name in _PACKAGES:
        yield Finding("versions", name, _version(name) or "not installed")
    yield Finding(
        "versions",
        "optional",
        ", ".join(f"{name} {_version(name)}" for name in _OPTIONAL if _version(name)) or "none",
    )


def processor() -> Iterator[Finding]:
    """The processor, its instruction sets, and the memory."""
    lines = _lines(Path("/proc/cpuinfo"))
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    yield Finding("processor", "model", f"{model or platform.processor() or 'unknown'}, {cores()} cores")
    known = [name for name in _FEATURES if name in flags]
    if "avx2" in known or not flags:
        yield Finding("processor", "instruction sets", ", ".join(known) or "unknown")
    else:
        yield Finding(
            "processor", "instruction sets", "no avx2", "note", "matrix products are slow without AVX2"
        )
    memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in _lines(Path("/proc/meminfo"))}
    if memory:
        value = f"{memory['MemTotal'] / _GIB:.1f} GiB, {memory['MemAvailable'] / _GIB:.1f} GiB available"
        yield Finding("processor", "memory", value)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free
        advice = (
            "NCCL uses /dev/shm between GPUs that are not connected directly, and data workers need some 100 KB: give "
            "the container more (docker run --shm-size 8g)"
        )
        is_small = free < _GIB
        yield Finding(
            "processor",
            "/dev/shm",
            f"{free / _GIB:.1f} GiB free",
            "note" if is_small else "ok",
            advice if is_small else "",
        )
    yield Finding("processor", "settings", tune_cpu())


def gpus() -> Iterator[Finding]:
    """The GPUs, and the driver and libraries that Paddle uses; a GPU that Paddle cannot use is a problem."""
    seen = _nvidia_smi()
    if not paddle.is_compiled_with_cuda():
        if seen:
            yield Finding(
                "GPUs", "Paddle", "the CPU build", "problem", f"the GPU build uses these GPUs: {GPU_LINE}"
            )
        else:
            yield Finding("GPUs", "GPUs", "none; Paddle is the CPU build")
        return
    count = paddle.device.cuda.device_count()
    for number in range(count):
        found = paddle.device.cuda.get_device_properties(number)
        value = f"{found.name}, {found.total_memory / _GIB:.1f} GiB, compute capability {found.major}.{found.minor}"
        yield Finding("GPUs", f"GPU {number}", value)
    if not count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        cause = f"CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else "Paddle finds none"
        yield Finding(
            "GPUs", "GPUs", f"none: {cause}", "problem" if seen else "note", "nvidia-smi must list the GPUs"
        )
    yield Finding(
        "GPUs", "driver", seen[0].split(",")[-1].strip() if seen else "unknown (nvidia-smi does not run)"
    )
    libraries = {
        "CUDA": paddle.version.cuda(),
        "cuDNN": paddle.version.cudnn(),
        "NCCL": paddle.version.nccl(),
    }
    for name, value in libraries.items():
        yield Finding("GPUs", f"{name} of Paddle", str(value))


def _nvidia_smi() -> list[str]:
    """`name, driver version` of each GPU; empty if the program is missing or fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    result = subprocess.run(query, capture_output=True, text=True, check=False, timeout=20)
    return result.stdout.splitlines() if result.returncode == 0 else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
