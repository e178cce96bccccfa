"""From command-line flags to exit status: starts the ranks of a run and reports its errors."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import paddle
from yacs.config import CfgNode

from beit.config import config_from_arguments
from beit.data.loader import WorkerError
from beit.parallel import ranks
from beit.parallel.launch import launch
from beit.parallel.signals import STOP_SIGNALS
from beit.train.run import run
from beit.train.state import StoppedError

MACHINE_ERROR, USER_ERROR, INTERRUPTED = 1, 2, 128 + signal.SIGINT
"""Exit statuses: a fault of the program or the machine; wrong input; Ctrl-C outside of training, or twice.

143 is a stop that was asked for, 124 a rank that hung (beit/parallel/watchdog.py)."""

_MEMORY_ADVICE = (
    "Halve DATA.BATCH_SIZE and double TRAIN.ACCUM_ITER (the same steps in less memory), lower DATA.BATCH_SIZE_EVAL if "
    "it was an evaluation, or set -amp; the newest checkpoint is whole, continue with -resume auto"
)


def main(program: str, *, single: bool, argv: Sequence[str] | None = None, epilog: str = "") -> int:
    """Entry of the scripts and verbs: flags to exit status. `single` runs one rank whatever is visible."""
    return exit_status(lambda: _launch_or_run(config_from_arguments(argv, program, epilog), single=single))


def _launch_or_run(config: CfgNode, *, single: bool) -> int:
    if ranks.is_launched_rank():
        return _rank(config)
    device = ranks.choose_device(config.DEVICE)
    world_size = (
        1 if single else config.NPROCS or (paddle.device.cuda.device_count() if device == "gpu" else 1)
    )
    if single and (config.NPROCS or 1) > 1:
        raise ValueError(f"-nprocs {config.NPROCS}: main_single_gpu.py runs one rank; use main_multi_gpu.py")
    if world_size == 1:
        return _rank(config)
    return launch(_rank_process, (config,), ranks=world_size, device=device, grace=config.RANK_GRACE)


def _rank(config: CfgNode) -> int:
    run(config)
    return 0


def _rank_process(config: CfgNode) -> None:
    sys.exit(exit_status(lambda: _rank(config)))


def exit_status(action: Callable[[], int]) -> int:
    """Exit status of an action; the user's mistakes become one line (with the traceback when BEIT_DEBUG is set)."""
    try:
        status = action()
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        status = ranks.EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        print(f"error: out of memory: {_first_line(error)}. {_MEMORY_ADVICE}", file=sys.stderr, flush=True)
        return MACHINE_ERROR
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return MACHINE_ERROR
    except (ValueError, OSError, FloatingPointError) as error:
        if _comes_from_paddle(error):
            raise
        if os.environ.get("BEIT_DEBUG"):
            traceback.print_exc()
        where = f"rank {ranks.rank()}: " if ranks.world_size() > 1 else ""
        print(f"error: {where}{error}", file=sys.stderr, flush=True)
        return USER_ERROR
    if status == ranks.EXIT_STOPPED:
        for (
            number
        ) in STOP_SIGNALS:  # they are repeated until this process is gone, and must not change its status
            signal.signal(number, signal.SIG_IGN)
    return status


def _first_line(error: BaseException) -> str:
    """What Paddle says of an error, without its stack of C++ calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("(ResourceExhausted)") or "Out of memory" in line]
    return (said or lines or ["no details"])[0].rstrip(".")


def _comes_from_paddle(error: BaseException) -> bool:
    """Whether Paddle raised it: then the fault is ours, not the user's, and the whole traceback is wanted.

    The innermost frame of either decides: Paddle's decorators and `Layer.__call__` stand in many tracebacks of ours.
    """
    own = Path(__file__).parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(own):
            break
        if "paddle" in file.parts:
            return True
    return "[Hint:" in str(error)
