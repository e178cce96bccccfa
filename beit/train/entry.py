"""From command-line flags to exit status: starts the ranks of a run and reports its errors."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import paddle
from paddle import distributed
from yacs.config import CfgNode

from beit.cpu import cores
from beit.data.loader import WorkerError
from beit.flags import Parser, config_from_arguments
from beit.parallel import ranks
from beit.parallel.launch import launch, leave
from beit.parallel.signals import EXIT_INTERRUPTED, EXIT_STOPPED, STOP_SIGNALS
from beit.printable import printable_lines
from beit.train.run import run
from beit.train.state import StoppedError
from beit.warning_lines import show_as_lines, shown_warnings

MACHINE_ERROR, USER_ERROR = 1, 2
"""Exit statuses: a fault of the program or the machine; wrong input. Others: `signals.EXIT_STOPPED` (143) a requested
stop, `signals.EXIT_INTERRUPTED` (130) Ctrl-C, `watchdog.EXIT_HUNG` (124) a rank that hung."""

_MEMORY_ADVICE = (
    "Halve DATA.BATCH_SIZE and double TRAIN.ACCUM_ITER (the same steps in less memory), lower DATA.BATCH_SIZE_EVAL if "
    "it was an evaluation, or set -amp; the newest checkpoint is intact, continue with -resume auto"
)


def main(parser: Parser, *, single: bool, argv: Sequence[str] | None = None) -> int:
    """Parse flags, run, and return the exit status.

    Args:
        parser: of `beit.flags.training_parser`.
        single: run one rank, however many devices there are.
        argv: flags; None for those of the process.
    """
    show_warnings()
    status = exit_status(lambda: launch_or_run(config_from_arguments(argv, parser), single=single))
    if distributed.is_initialized():  # a rank of paddle.distributed.launch
        leave(status)
    return status


def exit_status(action: Callable[[], int]) -> int:
    """Exit status of an action; prints a user's mistake as one line (with the traceback when BEIT_DEBUG is set)."""
    try:
        status = action()
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        status = EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except MemoryError as error:
        print(f"error: out of memory: {_first_line(error)}. {_MEMORY_ADVICE}", file=sys.stderr, flush=True)
        return MACHINE_ERROR
    except WorkerError as error:
        print(printable_lines(f"error: {error}"), file=sys.stderr, flush=True)
        return MACHINE_ERROR
    except (ValueError, OSError, FloatingPointError) as error:
        if _comes_from_paddle(error):
            raise
        if os.environ.get("BEIT_DEBUG"):
            traceback.print_exc()
        where = f"rank {ranks.rank()}: " if ranks.world_size() > 1 else ""
        print(printable_lines(f"error: {where}{error}"), file=sys.stderr, flush=True)
        return USER_ERROR
    if status == EXIT_STOPPED:
        # Launchers repeat these signals until the process is gone; they must not change its exit status.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return status


def launch_or_run(config: CfgNode, *, single: bool) -> int:
    """Run a config in this process or in several ranks; returns the exit status. The arguments are those of `main`."""
    ranks.check_launcher()
    if ranks.is_launched_rank():
        return _rank(config)
    if single and config.NPROCS not in (None, 1):
        raise ValueError(f"-nprocs {config.NPROCS}: main_single_gpu.py runs one rank; use main_multi_gpu.py")
    device = ranks.choose_device(config.DEVICE)
    world_size = 1 if single else num_ranks(config.NPROCS, device)
    if world_size == 1:
        return _rank(config)
    return launch_ranks(config, device, world_size)


def launch_ranks(config: CfgNode, device: str, world_size: int) -> int:
    """Run a config with several ranks on this machine, "cpu" or "gpu"; returns the exit status."""
    arguments = config, shown_warnings()
    return launch(_rank_process, arguments, ranks=world_size, device=device, grace=config.RANK_GRACE)


def num_ranks(nprocs: int | str | None, device: str) -> int:
    """Ranks to start for `NPROCS`: the number itself; "auto" one per GPU or CPU core; None one per GPU, or one."""
    if isinstance(nprocs, int):
        return nprocs
    if device == "gpu":
        return int(paddle.device.cuda.device_count())
    return cores() if nprocs == "auto" else 1


def _rank(config: CfgNode) -> int:
    run(config)
    return 0


def _rank_process(config: CfgNode, earlier_warnings: Sequence[str]) -> None:
    show_warnings(earlier_warnings)
    sys.exit(exit_status(lambda: _rank(config)))


def show_warnings(earlier: Sequence[str] = ()) -> None:
    """Show warnings as lines, on rank 0 only: all ranks have the same ones."""
    if ranks.rank() == 0:
        show_as_lines(earlier)
    else:
        warnings.simplefilter("ignore")


def _first_line(error: BaseException) -> str:
    """Paddle's error message without its stack of C++ calls."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    memory = [line for line in lines if line.startswith("(ResourceExhausted)") or "Out of memory" in line]
    return (memory or lines or ["no details"])[0].rstrip(".")


def _comes_from_paddle(error: BaseException) -> bool:
    """Whether Paddle raised the error. Then it is a bug of this package, and its traceback is shown.

    The innermost frame of either package decides: Paddle's decorators and `Layer.__call__` are part of many
    tracebacks of this package's own errors.
    """
    package = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(package):
            break
        if "paddle" in file.parts:
            return True
    return "[Hint:" in str(error)
