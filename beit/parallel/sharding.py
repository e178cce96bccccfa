"""Optimizer state and gradients divided among the ranks: Paddle's GroupSharded stages. Floor 1.

Paddle wraps the optimizer; `run.optimizer` is that wrapper then. Each parameter has one owner, which alone gets its
summed gradient, keeps its moments and sends the new value to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from yacs.config import CfgNode

from beit.optim.groups import load_named_optimizer_state, named_optimizer_state
from beit.parallel import ranks

LEVELS = {1: "os", 2: "os_g"}
"""TRAIN.SHARDING_STAGE to Paddle's name of it; Paddle 3.3 computes stage 1 as stage 2."""


def check(config: CfgNode, device: str, ranks: int) -> None:
    """Refuse a TRAIN.SHARDING_STAGE that cannot work, before the ranks meet.

    Raises:
        ValueError: stage 3; a stage on a CPU or with one rank.
    """
    stage = config.TRAIN.SHARDING_STAGE
    if not stage or config.EVAL:
        return
    given = f"TRAIN.SHARDING_STAGE = {stage}"
    if stage not in LEVELS:
        raise ValueError(
            f"{given} divides the weights too, layer by layer; BEiT's attention reads its qkv weight outside of the layer "
            "that holds it, so Paddle would not gather it. Possible are 0 (off), 1 and 2; take 2, with TRAIN.RECOMPUTE "
            "True where activations are what does not fit"
        )
    if device != "gpu":
        raise ValueError(
            f"{given} on {device}: Paddle divides on GPUs only. Set TRAIN.SHARDING_STAGE 0; to save memory here lower "
            "DATA.BATCH_SIZE and raise TRAIN.ACCUM_ITER, or set TRAIN.RECOMPUTE True"
        )
    if ranks < 2:
        raise ValueError(
            f"{given} with {ranks} rank: there is nobody to divide with. Set TRAIN.SHARDING_STAGE 0, or start several "
            "ranks (main_multi_gpu.py)"
        )


def distribute(
    task: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, stage: int, amp_dtype: str | None
) -> tuple[paddle.nn.Layer, paddle.optimizer.Optimizer]:
    """The layer to call in training and the optimizer to step, for all ranks together; weights are loaded before.

    Without a stage gradients are averaged while the backward pass still computes: `DataParallel` sends them in
    buckets of 25 MB as they become ready.

    Raises:
        ValueError: a stage with mixed precision in float16: each rank would decide on its own which step overflows.
    """
    if not stage:
        return paddle.DataParallel(task) if ranks.world_size() > 1 else task, optimizer
    if amp_dtype == "float16":
        raise ValueError(
            f"TRAIN.SHARDING_STAGE = {stage} with -amp on a GPU without bfloat16: its loss scaling sees one rank's share "
            "of the gradients. Run without -amp, or set TRAIN.SHARDING_STAGE 0"
        )
    parameters = _parameters(optimizer)
    regularizers = [parameter.regularizer for parameter in parameters]
    parallel, sharded, _ = paddle.distributed.sharding.group_sharded_parallel(task, optimizer, LEVELS[stage])
    # The wrapper is an Optimizer over the same groups, and as such turns their weight decay into an L2 term of the
    # gradient, which AdamW, that decays by itself, would add to its own (3.3.1).
    for parameter, regularizer in zip(parameters, regularizers, strict=True):
        parameter.regularizer = regularizer
    return parallel, sharded


def is_sharded(optimizer: paddle.optimizer.Optimizer) -> bool:
    """Whether an optimizer is Paddle's wrapper."""
    return hasattr(optimizer, "param2rank")


def unwrap_optimizer(optimizer: paddle.optimizer.Optimizer) -> Any:
    """The AdamW that holds groups and state: inside the wrapper, or the optimizer itself."""
    return optimizer._optim if is_sharded(optimizer) else optimizer


def gradient_norm(optimizer: paddle.optimizer.Optimizer, squares: Tensor) -> Tensor:
    """Norm of all gradients, of the sum of squares of those on this rank.

    A divided run has on a rank what it owns, summed over the ranks; the wrapper divides by their number in its step.
    """
    if not is_sharded(optimizer):
        return squares.sqrt()
    return ranks.sum_over_ranks(squares).sqrt() / ranks.world_size()


def optimizer_state(optimizer: paddle.optimizer.Optimizer, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The whole state as `named_optimizer_state` of an undivided run gives it; all ranks call it, rank 0 gets it.

    Owners send their part parameter by parameter, so that no rank holds more than one of them on its device.
    """
    if not is_sharded(optimizer):
        return named_optimizer_state(optimizer, names) if ranks.rank() == 0 else {}
    own = named_optimizer_state(unwrap_optimizer(optimizer), names, only=_own(optimizer))
    state: dict[str, np.ndarray] = {}
    for parameter in _parameters(unwrap_optimizer(optimizer)):
        prefix = f"{names[parameter.name]}."
        part = {key: value for key, value in own.items() if key.rpartition(".")[0] + "." == prefix}
        part = ranks.broadcast_object(part, optimizer.param2rank[parameter.name])
        if ranks.rank() == 0:
            state |= part
    return state


def load_optimizer_state(
    optimizer: paddle.optimizer.Optimizer, state: Mapping[str, np.ndarray], names: Mapping[str, str]
) -> None:
    """Put the whole state, written by a divided run or not, into an optimizer; a divided one keeps what it owns.

    Raises:
        ValueError: as `load_named_optimizer_state`.
    """
    only = _own(optimizer) if is_sharded(optimizer) else None
    load_named_optimizer_state(unwrap_optimizer(optimizer), state, names, only=only)


def _own(optimizer: Any) -> set[str]:
    """Automatic names of the parameters this rank owns."""
    return {name for name, owner in optimizer.param2rank.items() if owner == ranks.rank()}


def _parameters(optimizer: Any) -> list[Tensor]:
    return [parameter for group in optimizer._param_groups for parameter in group["params"]]
