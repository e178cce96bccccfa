"""Collectives over ranks and the device of a rank. On one process every function is the identity."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import distributed

from beit.parallel import watchdog

EXIT_STOPPED = 128 + signal.SIGTERM
"""Exit status of a run that was asked to stop and saved its state."""


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

    All ranks give the same names and shapes in the same order.

    Sums travel as float64, which holds counts exactly and adds float32 losses without visible rounding.
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
    """The sum of a tensor over all ranks, on the device."""
    if world_size() > 1:
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
    return tensor


def gather_samples(tensor: paddle.Tensor) -> paddle.Tensor:
    """`[B, …]` of each rank to the `[B * ranks, …]` of the whole batch, on every rank.

    The order is that of the sampler, which deals the images of a step to the ranks one by one: what follows does
    not depend on the number of ranks.
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
    """The object rank `source` gives, on every rank."""
    if world_size() > 1:
        box = [value]
        distributed.broadcast_object_list(box, src=source)
        return box[0]
    return value


def _float64(value: Any) -> paddle.Tensor:
    tensor = value if isinstance(value, paddle.Tensor) else paddle.to_tensor(value, dtype="float64")
    return tensor.astype("float64")


class StopVote:
    """Lets all ranks leave the loop after the same step when any of them was asked to stop.

    A signal reaches ranks at different steps. Each step adds up one number over the ranks; its sum is read one
    step later, so the host never waits for the step that is running.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._previous: paddle.Tensor | None = None

    def request(self, signal_number: int) -> None:
        """Ask to stop (called by signal handlers; further signals change nothing)."""
        self.requested = self.requested or signal_number

    def passed(self) -> bool:
        """Whether the ranks agree to stop now; to be called once after each step by every rank."""
        watchdog.heartbeat()
        if world_size() == 1:
            return bool(self.requested)
        votes = paddle.to_tensor(float(self.requested))
        distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        previous, self._previous = self._previous, votes
        if previous is None or not float(previous):
            return False
        self.requested = int(float(previous))
        return True


# ---------------------------------------------------------------------------------------------- devices


def choose_device(wanted: str) -> str:
    """`"gpu"` or `"cpu"` for `DEVICE` = auto, cpu or gpu.

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
    if rank() == 0:
        message = f"warning: {reason}, so this runs on the CPU, which is slow for all but small models (-device cpu: no warning)"
        print(message, file=sys.stderr)
    return "cpu"


def start(device: str) -> None:
    """Set the device of this rank and, with several ranks, join them.

    Paddle's own signal handlers are taken away: they answer a SIGTERM with a page of C++ frames. A crash prints the
    Python frames instead.
    """
    paddle.disable_signal_handler()
    faulthandler.enable(2)  # in notebooks sys.stderr is no file
    if device == "gpu":
        paddle.device.set_device(f"gpu:{distributed.ParallelEnv().device_id}")
    else:
        paddle.device.set_device("cpu")
    if distributed.ParallelEnv().world_size > 1 and not distributed.is_initialized():
        _refuse_taken_port()
        distributed.init_parallel_env()


def _refuse_taken_port() -> None:
    """Paddle aborts the process when the port of rank 0, where the ranks meet, is taken."""
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


def launched_world_size() -> int:
    """Number of ranks the launcher means to start, also before they have joined."""
    return int(distributed.ParallelEnv().world_size)


def is_launched_rank() -> bool:
    """Whether a launcher (`paddle.distributed.launch`, or `launch` below) started this process as one of its ranks."""
    return "PADDLE_TRAINER_ID" in os.environ
