"""Optimizer state and gradients sharded over the ranks with Paddle's GroupSharded stages (ZeRO 1 and 2).

Paddle wraps the optimizer, and `TrainState.optimizer` is that wrapper. One rank owns each parameter: it alone receives
the summed gradient, keeps the moments and broadcasts the new value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from yacs.config import CfgNode

from beit.optim.groups import load_named_optimizer_state, named_optimizer_state, parameters_of
from beit.parallel import ranks

LEVELS = {1: "os", 2: "os_g"}
"""TRAIN.SHARDING_STAGE -> Paddle's name; Paddle 3.3 runs stage 1 as stage 2."""


def check(config: CfgNode, device: str, world_size: int) -> None:
    """Refuse a TRAIN.SHARDING_STAGE that cannot work, before the process group is initialized.

    Raises:
        ValueError: stage 3; a stage on a CPU or with one rank.
    """
    stage = config.TRAIN.SHARDING_STAGE
    if not stage or config.EVAL:
        return
    given = f"TRAIN.SHARDING_STAGE = {stage}"
    if stage not in LEVELS:
        raise ValueError(
            f"{given} would shard the weights too, which is not supported. Possible are 0 (off), 1 and 2; use 2, with "
            "TRAIN.RECOMPUTE True if it is the activations that do not fit"
        )
    if device != "gpu":
        raise ValueError(
            f"{given} on {device}: Paddle shards on GPUs only. Set TRAIN.SHARDING_STAGE 0; to save memory here lower "
            "DATA.BATCH_SIZE and raise TRAIN.ACCUM_ITER, or set TRAIN.RECOMPUTE True"
        )
    if world_size < 2:
        raise ValueError(
            f"{given} with {world_size} rank: sharding needs several. Set TRAIN.SHARDING_STAGE 0, or start several "
            "ranks (main_multi_gpu.py)"
        )


def distribute(
    task: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, stage: int, amp_dtype: str | None
) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
    """Wrap a task and its optimizer for all ranks; load the weights before.

    Without a sharding stage the wrapper is `DataParallel`, which all-reduces gradients in buckets of 25 MB while the
    backward pass still runs.

    Args:
        task: the layer to train.
        optimizer: over the task's parameters.
        stage: TRAIN.SHARDING_STAGE.
        amp_dtype: type of mixed precision, or None.

    Raises:
        ValueError: a stage with float16, where each rank would decide by itself whether a step overflows.
    """
    if not stage:
        return paddle.DataParallel(task) if ranks.world_size() > 1 else task, optimizer
    if amp_dtype == "float16":
        raise ValueError(
            f"TRAIN.SHARDING_STAGE = {stage} with -amp on a GPU without bfloat16: its loss scaling sees one rank's share "
            "of the gradients. Run without -amp, or set TRAIN.SHARDING_STAGE 0"
        )
    parameters = parameters_of(optimizer)
    regularizers = [parameter.regularizer for parameter in parameters]
    parallel, sharded, _ = paddle.distributed.sharding.group_sharded_parallel(task, optimizer, LEVELS[stage])
    # In Paddle 3.3.1 the wrapper, itself an Optimizer over the same groups, sets their weight decay as an L2 regularizer.
    # AdamW decays the weights itself, so they would decay twice.
    for parameter, regularizer in zip(parameters, regularizers, strict=True):
        parameter.regularizer = regularizer
    return parallel, sharded


def is_sharded(optimizer: paddle.optimizer.Optimizer) -> bool:
    """Whether an optimizer is Paddle's sharding wrapper."""
    return hasattr(optimizer, "param2rank")


def unwrap_optimizer(optimizer: paddle.optimizer.Optimizer) -> Any:
    """The AdamW that holds groups and state: the one inside the sharding wrapper, or the optimizer itself."""
    return optimizer._optim if is_sharded(optimizer) else optimizer


def gradient_norm(optimizer: paddle.optimizer.Optimizer, squares: Tensor) -> Tensor:
    """Global gradient norm from the sum of squares of the gradients on this rank.

    With sharding each rank holds only its own gradients, already summed over ranks but not yet averaged.
    """
    if not is_sharded(optimizer):
        return squares.sqrt()
    return ranks.sum_over_ranks(squares).sqrt() / ranks.world_size()


def optimizer_state(optimizer: paddle.optimizer.Optimizer, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The full state on rank 0, in the form of `named_optimizer_state`; empty on the others. Every rank calls it.

    Owners send their part parameter by parameter, so that no device holds more than one of them at a time.
    """
    if not is_sharded(optimizer):
        return named_optimizer_state(optimizer, names) if ranks.rank() == 0 else {}
    own = named_optimizer_state(unwrap_optimizer(optimizer), names, only=_own(optimizer))
    state: dict[str, np.ndarray] = {}
    for parameter in parameters_of(unwrap_optimizer(optimizer)):
        prefix = f"{names[parameter.name]}."
        part = {key: value for key, value in own.items() if key.rpartition(".")[0] + "." == prefix}
        part = ranks.broadcast_object(part, optimizer.param2rank[parameter.name])
        if ranks.rank() == 0:
            state |= part
    return state


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, state: Mapping[str, np.ndarray], names: Mapping[str, str]
) -> None:
    """Load a full state, from a sharded run or not, into an optimizer; a sharded one keeps its own part.

    Raises:
        ValueError: as `load_named_optimizer_state`.
    """
    only = _own(optimizer) if is_sharded(optimizer) else None
    load_named_optimizer_state(unwrap_optimizer(optimizer), state, names, only=only)


def _own(optimizer: Any) -> set[str]:
    """Automatic names (`linear_7.w_0`) of the parameters that this rank owns."""
    return {name for name, owner in optimizer.param2rank.items() if owner == ranks.rank()}
