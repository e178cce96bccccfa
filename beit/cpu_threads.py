"""A batch divided among threads, on a CPU. Floor 0.

Of Paddle's CPU kernels only the matrix products use several cores; softmax, GELU, sums and copies leave all but one
idle. With a part of the batch for each core everything runs on all of them.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import paddle
from paddle import Tensor, nn

_OPENMP = ("libiomp", "libgomp", "libomp")  # Paddle's own kernels and its matrix library may have one each

LEAST_VALUES = 1 << 22
"""Numbers in all tensors together below which handing them to threads takes longer than it saves."""

T = TypeVar("T")
R = TypeVar("R")


class _Settings:
    divides_blocks = False


_settings = _Settings()
_thread = threading.local()


def divided(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`function(images)` `[B, …]`, without gradients, computed in parts of the batch where that is faster.

    The function must treat each image by itself and change nothing.

    Args:
        function: from `[b, …]` to `[b, …]`, for any b.
        images: `[B, …]`.
    """

    def compute(part: Tensor) -> Tensor:
        with paddle.no_grad():  # of this thread
            return function(part)

    sizes = part_sizes(images)
    if len(sizes) < 2:
        return compute(images)
    return paddle.concat(in_threads(compute, paddle.split(images, sizes)))


def part_sizes(tensor: Tensor, axis: int = 0, at_least: int = 1) -> list[int]:
    """How much of an axis, at least so much, each thread should take; all of it on another device or within a part."""
    number = tensor.shape[axis]
    is_whole = getattr(_thread, "has_a_part", False) or not tensor.place.is_cpu_place()
    parts = 1 if is_whole else min(number // at_least, threads())
    return [number // parts + (part < number % parts) for part in range(parts)] if parts > 1 else [number]


def each(function: Callable[[Tensor], R], tensors: Sequence[Tensor]) -> list[R]:
    """`function` of each tensor, without gradients; several at a time on a CPU that `beit.tune_cpu()` has set up."""

    def compute(tensor: Tensor) -> R:
        with paddle.no_grad():
            return function(tensor)

    if divides_blocks() and sum(t.size for t in tensors) >= LEAST_VALUES and tensors[0].place.is_cpu_place():
        return in_threads(compute, tensors)
    return [compute(tensor) for tensor in tensors]


def suit_small_models(parameters: Sequence[Tensor]) -> None:
    """One thread for the matrix products of this thread where they are too small to be shared, after `divide_blocks`."""
    if divides_blocks() and sum(parameter.size for parameter in parameters) < LEAST_VALUES:
        set_threads(1)


def divide_blocks() -> None:
    """Let blocks divide batches in training and tokens in inference from now on; `beit.tune_cpu()` calls it."""
    _settings.divides_blocks = True


def divides_blocks() -> bool:
    """Whether `divide_blocks` was called."""
    return _settings.divides_blocks


def is_watched(blocks: Iterable[nn.Layer]) -> bool:
    """Whether a layer of the blocks has forward hooks, which would see parts and come from several threads."""
    layers = (layer for block in blocks for layer in block.sublayers(include_self=True))
    return any(layer._forward_pre_hooks or layer._forward_post_hooks for layer in layers)


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """`function` of each item, in threads that share the cores; the first error is raised."""
    if len(items) == 1:
        return [function(items[0])]
    return list(_pool(min(len(items), threads())).map(function, items))


@functools.cache
def _pool(parts: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        parts, thread_name_prefix="beit-part", initializer=_take_cores, initargs=(max(1, threads() // parts),)
    )


def _take_cores(count: int) -> None:
    """Matrix products that this thread asks for run in `count` threads: OpenMP's limit belongs to who sets it."""
    _thread.has_a_part = True
    set_threads(count)


def set_threads(count: int) -> None:
    """OpenMP threads of what this thread asks for."""
    for library in _openmp():
        library.omp_set_num_threads(count)


@functools.cache
def threads() -> int:
    """Threads that a matrix product takes; 1 where that cannot be found out or changed."""
    return max((library.omp_get_max_threads() for library in _openmp()), default=1)


@functools.cache
def _openmp() -> tuple[ctypes.CDLL, ...]:
    """The OpenMP libraries that this process has loaded; none on systems that do not list them."""
    maps = Path("/proc/self/maps")
    if sys.platform != "linux" or not maps.is_file():
        return ()
    loaded = {line.split(maxsplit=5)[-1].strip() for line in maps.read_text(errors="replace").splitlines()}
    return tuple(ctypes.CDLL(path) for path in sorted(loaded) if Path(path).name.startswith(_OPENMP))
