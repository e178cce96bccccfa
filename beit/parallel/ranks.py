"""Collectives over ranks and the device of a rank. On one process every function is the identity."""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import socket
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import distributed

from beit.install import LAUNCHER_ADVICE, launcher_numbers
from beit.parallel.signals import keep_handlers
from beit.warning_lines import show_warning


def rank() -> int:
    """Number of this process, from 0."""
    return int(distributed.get_rank())


def world_size() -> int:
    """Number of processes that work together."""
    return int(distributed.get_world_size())


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        distributed.barrier()


def all_reduce_sum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sum of each value over all ranks: single numbers as Python floats, more as float64 arrays; one message.

    All ranks pass the same names and shapes in the same order. Values are summed in float64, which is exact for
    counts and adds float32 losses without visible rounding.
    """
    tensors = [_float64(value) for value in values.values()]
    total = paddle.concat([tensor.reshape([-1]) for tensor in tensors])
    if world_size() > 1:
        distributed.all_reduce(total)
    parts = np.split(total.numpy(), np.cumsum([tensor.size for tensor in tensors])[:-1])
    sums = (part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True))
    return {
        name: part if part.size > 1 else float(part.item()) for name, part in zip(values, sums, strict=True)
    }


def sum_over_ranks(tensor: paddle.Tensor) -> paddle.Tensor:
    """Sum of a tensor over all ranks, on the device."""
    if world_size() > 1:
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
    return tensor


def gather_samples(tensor: paddle.Tensor) -> paddle.Tensor:
    """Gather `[B, ...]` of each rank to `[B * world_size, ...]` on every rank.

    The order is the sampler's, which assigns the images of a step to the ranks in turn, so results do not depend on
    the number of ranks.
    """
    if world_size() == 1:
        return tensor
    parts: list[paddle.Tensor] = []
    distributed.all_gather(parts, tensor.contiguous())
    return paddle.stack(parts, axis=1).flatten(0, 1)


def broadcast(tensor: paddle.Tensor) -> paddle.Tensor:
    """The tensor of rank 0, on every rank."""
    if world_size() > 1:
        tensor = tensor.clone()
        distributed.broadcast(tensor, src=0)
    return tensor


def broadcast_object(value: Any, source: int) -> Any:
    """The object that rank `source` passes, on every rank; it must be picklable."""
    if world_size() > 1:
        box = [value]
        distributed.broadcast_object_list(box, src=source)
        return box[0]
    return value


def _float64(value: Any) -> paddle.Tensor:
    tensor = value if isinstance(value, paddle.Tensor) else paddle.to_tensor(value, dtype="float64")
    return tensor.astype("float64")


def choose_device(wanted: str) -> str:
    """`"gpu"` or `"cpu"` for `DEVICE` = auto, cpu or gpu; warns if auto leaves the GPU of this machine or Paddle unused.

    Raises:
        ValueError: GPUs are wanted and Paddle sees none.
    """
    if wanted == "cpu":
        return "cpu"
    if paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count():
        return "gpu"
    reason = "Paddle sees no GPU" if paddle.is_compiled_with_cuda() else "this Paddle is a CPU build"
    if wanted == "gpu":
        raise ValueError(
            f"DEVICE = gpu, but {reason}; install paddlepaddle-gpu (README), check CUDA_VISIBLE_DEVICES, "
            "or run with -device cpu"
        )
    if rank() == 0 and (paddle.is_compiled_with_cuda() or shutil.which("nvidia-smi")):
        show_warning(
            f"{reason}, so this runs on the CPU, which is slow for all but small models; say -device cpu if that is meant"
        )
    return "cpu"


def start(device: str) -> None:
    """Set the device of this rank and, with several ranks, initialize the process group.

    Paddle's signal handlers are disabled: on SIGTERM they print a page of C++ frames. A crash prints the Python frames
    instead.
    """
    with keep_handlers():  # Paddle removes the handler of SIGTERM, including ones that it has not installed
        paddle.disable_signal_handler()
    faulthandler.enable(2)  # in notebooks sys.stderr has no file descriptor
    if device == "gpu":
        paddle.device.set_device(f"gpu:{distributed.ParallelEnv().device_id}")
    else:
        paddle.device.set_device("cpu")
    if distributed.ParallelEnv().world_size > 1 and not distributed.is_initialized():
        _refuse_taken_port()
        distributed.init_parallel_env()


def _refuse_taken_port() -> None:
    """Raise an error when the port of rank 0 is taken; Paddle would abort the process."""
    environment = distributed.ParallelEnv()
    place = os.environ.get("PADDLE_MASTER") or environment.trainer_endpoints[0]
    if environment.rank != 0 or not place:
        return
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", int(place.rpartition(":")[2])))
    except OSError as error:
        raise OSError(
            error.errno,
            f"the ranks cannot meet at {place}: {error.strerror}; another job on this machine? Choose another port "
            "(--master of paddle.distributed.launch)",
        ) from None


def check_launcher() -> None:
    """Check the environment variables in which a launcher numbers the ranks; Paddle's own errors do not name them.

    Raises:
        ValueError: `PADDLE_TRAINER_ID` or `PADDLE_TRAINERS_NUM` is not a number or out of range, there are not as many
            `PADDLE_TRAINER_ENDPOINTS` as ranks, or the place where they meet has no port.
    """
    number, count = launcher_numbers()
    if number >= count:
        raise ValueError(
            f"PADDLE_TRAINER_ID is {number} and PADDLE_TRAINERS_NUM is {count}; ranks count from 0 to {count - 1}. {LAUNCHER_ADVICE}"
        )
    endpoints = [place for place in os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",") if place]
    if count > 1 and len(endpoints) != count and not os.environ.get("PADDLE_MASTER"):
        raise ValueError(
            f"PADDLE_TRAINERS_NUM is {count}, but PADDLE_TRAINER_ENDPOINTS names {len(endpoints)} addresses. {LAUNCHER_ADVICE}"
        )
    place = os.environ.get("PADDLE_MASTER") or "".join(endpoints[:1])
    port = place.rpartition(":")[2]
    if count > 1 and not (re.fullmatch("[0-9]{1,5}", port) and int(port) < 2**16):
        name = "PADDLE_MASTER" if os.environ.get("PADDLE_MASTER") else "PADDLE_TRAINER_ENDPOINTS"
        raise ValueError(f"{name} begins with {place[:80]!r}; expected HOST:PORT. {LAUNCHER_ADVICE}")


def launched_world_size() -> int:
    """Number of ranks that the launcher starts; known before the process group is initialized."""
    return int(distributed.ParallelEnv().world_size)


def is_launched_rank() -> bool:
    """Whether `paddle.distributed.launch` or `beit.parallel.launch` started this process as one of its ranks."""
    return "PADDLE_TRAINER_ID" in os.environ
