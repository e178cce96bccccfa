"""Everything a training run holds on one rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import paddle
from yacs.config import CfgNode

from beit.checkpoint.adapter import Adapter
from beit.data.dataset import ImageDataset
from beit.data.loader import Loader
from beit.data.sampler import EvalSampler, TrainSampler
from beit.logging import RunLog
from beit.optim.ema import Ema
from beit.parallel.stop import StopVote
from beit.tasks import Task
from beit.tasks.task import Batch, Sums


class NonFiniteLossError(FloatingPointError):
    """A loss, a gradient or a weight became NaN or infinite."""


class StoppedError(Exception):
    """The run was asked to stop (SIGTERM or SIGINT) and its state is saved."""


class RanksFailedError(RuntimeError):
    """A rank of several failed. It has printed why; `status` is the exit status of the run."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the run ended with exit status {status}; see the messages above")
        self.status = status


class Evaluation(NamedTuple):
    """Result of an evaluation.

    Args:
        metrics: `Task.metrics` of the sums, and `images_per_second`.
        sums: sums over the whole dataset, of all ranks.
        batch: the first batch of this rank.
    """

    metrics: dict[str, float]
    sums: Sums
    batch: Batch


@dataclass(kw_only=True)
class TrainState:
    """What an optimizer step reads and changes.

    Args:
        config: the frozen config.
        task: the task; `task.model` holds the weights that are saved.
        parallel: the task, wrapped in DataParallel or a sharding wrapper where there are several ranks.
        optimizer, scaler: of the task's parameters.
        ema: moving average of the weights; None without TRAIN.MODEL_EMA.
        amp_dtype: type of mixed precision; None for float32.
        step: optimizer steps done.
    """

    config: CfgNode
    task: Task
    parallel: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer
    scaler: paddle.amp.GradScaler
    ema: Ema | None
    amp_dtype: str | None
    step: int = 0


@dataclass(kw_only=True)
class Training(TrainState):
    """Everything a training run holds on one rank.

    Args:
        dataset, sampler, loader: the training data.
        validation: loader and sampler of the validation data; None where there are none.
        log: log lines, scalars and images.
        stop: lets all ranks stop after the same step.
        best: highest score of an evaluation so far.
        since_best: evaluations since then, for TRAIN.EARLY_STOP.
        is_resumed: the run continues from a checkpoint.
        metrics: of the last evaluation.
        adapter: with MODEL.LORA, what its files say of the base weights, which are read once.
    """

    dataset: ImageDataset
    sampler: TrainSampler
    loader: Loader
    validation: tuple[Loader, EvalSampler] | None
    log: RunLog
    stop: StopVote
    best: float = -math.inf
    since_best: int = 0
    is_resumed: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    adapter: Adapter | None = None
