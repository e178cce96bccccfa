"""Ranks: starting them, watching them, and sums over them. Every function is the identity on one process. Floor 0."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import distributed

from beit import watchdog
from beit.signals import STOP_SIGNALS, blocked_for_children
from beit.startup import given_threads

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


def from_first_rank(tensor: paddle.Tensor) -> paddle.Tensor:
    """The tensor of rank 0, on every rank."""
    if world_size() > 1:
        tensor = tensor.clone()
        distributed.broadcast(tensor, src=0)
    return tensor


def object_from(value: Any, source: int) -> Any:
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
        watchdog.beat()
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


def announced_ranks() -> int:
    """Number of ranks the launcher means to start, also before they have joined."""
    return int(distributed.ParallelEnv().world_size)


def is_launched_rank() -> bool:
    """Whether a launcher (`paddle.distributed.launch`, or `launch` below) started this process as one of its ranks."""
    return "PADDLE_TRAINER_ID" in os.environ


# ----------------------------------------------------------------------------------------------- launching


def launch(
    worker: Callable[..., Any], arguments: tuple[Any, ...], *, ranks: int, device: str, grace: float
) -> int:
    """Run `worker(*arguments)` in `ranks` processes on this machine; exit status, 0 when all of them succeeded.

    When a rank dies the others, who would wait for it for ever, get SIGTERM and after `grace` seconds SIGKILL.
    `STOP_SIGNALS` sent to this process are passed on.
    """
    options: dict[str, Any] = {"backend": "nccl" if device == "gpu" else "gloo", "start_method": "spawn"}
    if device == "cpu":
        # Several ranks with all threads each would fight for the cores.
        cores = len(os.sched_getaffinity(0))
        os.environ["OMP_NUM_THREADS"] = given_threads() or str(max(1, cores // ranks))
    with blocked_for_children():
        pass  # the resource tracker; the ranks do answer signals
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Your model will be trained under CPUONLY")
        context = distributed.spawn(worker, args=arguments, nprocs=ranks, join=False, daemon=False, **options)
    return _supervise(context.processes, context.error_queues, grace)


def _supervise(processes: list[Any], errors: list[Any], grace: float) -> int:
    def forward(number: int, _frame: Any) -> None:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, number)

    previous = {number: signal.signal(number, forward) for number in STOP_SIGNALS}
    try:
        running = {process.sentinel: index for index, process in enumerate(processes)}
        while running:
            for sentinel in wait(list(running)):
                index = running.pop(sentinel)
                processes[index].join()
                if processes[index].exitcode not in (0, EXIT_STOPPED):
                    return _end_all(processes, errors, index, grace)
        return max(int(process.exitcode) for process in processes)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _end_all(processes: list[Any], errors: list[Any], failed: int, grace: float) -> int:
    """Stop the ranks that still run, say why, and return the exit status of the failed one."""
    code = int(processes[failed].exitcode)
    if not errors[failed].empty():
        print(errors[failed].get(), file=sys.stderr)
    fate = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
    print(
        f"error: rank {failed} of {len(processes)} {fate}; stopping the other ranks",
        file=sys.stderr,
        flush=True,
    )
    for index, process in enumerate(processes):
        if process.is_alive() and _is_stopped(process.pid):
            print(
                f"error: rank {index} of {len(processes)} is stopped (SIGSTOP, or a debugger)",
                file=sys.stderr,
            )
    deadline = time.monotonic() + grace
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return 128 - code if code < 0 else code


def _is_stopped(pid: int) -> bool:
    """Whether the system holds the process; False where it does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] in "Tt"
