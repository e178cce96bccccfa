"""A trial of two training steps (time, memory, finite loss), and config keys without effect. For `beit check`."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass

import numpy as np
import paddle

from beit.data.batch_transforms import to_device
from beit.data.dataset import ImageDataset
from beit.data.loader import collate
from beit.data.sampler import Sample
from beit.layers.block import DropPath
from beit.tasks import Task

_STEPS = 2  # the first one also allocates and tunes


@dataclass(frozen=True)
class StepReport:
    """Seconds of the second micro-batch (data loading apart), peak bytes, and the loss."""

    seconds: float
    load_seconds: float
    peak_bytes: int
    where: str
    loss: float


def dry_step(task: Task, dataset: ImageDataset) -> StepReport:
    """Run two optimizer steps on the first training images; changes the weights of `task`.

    Memory is the peak that Paddle allocated on the GPU, or on a CPU the peak of the whole process.

    Raises:
        ValueError: the loss is not finite.
    """
    config = task.config
    optimizer = task.optimizer(task.param_groups())
    batch_size = min(config.DATA.BATCH_SIZE, len(dataset))
    begin = time.perf_counter()
    batch = to_device(collate([dataset[Sample(index, index)] for index in range(batch_size)]))
    load_seconds = time.perf_counter() - begin
    task.train()
    seconds = loss = 0.0
    for step in range(_STEPS):
        begin = time.perf_counter()
        losses = task(batch, np.random.default_rng(step))
        losses["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        loss = float(losses["loss"])  # waits for the device
        seconds = time.perf_counter() - begin
    if not np.isfinite(loss):
        raise ValueError(
            f"the loss of a first step is {loss}; check the data, DATA.IMAGENET_STD and TRAIN.BASE_LR"
        )
    if paddle.device.get_device().startswith("gpu"):
        return StepReport(
            seconds, load_seconds, paddle.device.cuda.max_memory_allocated(), "GPU memory", loss
        )
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return StepReport(seconds, load_seconds, peak, "memory of the process", loss)


def settings_without_effect(task: Task) -> list[str]:
    """One line per config key that is set but changes nothing in this task's model and parameter groups."""
    config, found = task.config, []
    multipliers = {group.get("learning_rate", 1.0) for group in task.param_groups()}
    if config.TRAIN.LAYER_DECAY != 1.0 and multipliers == {1.0}:
        found.append(
            f"TRAIN.LAYER_DECAY = {config.TRAIN.LAYER_DECAY:g} has no effect: every parameter trains at the full rate "
            f"(TASK: {config.TASK}, TRAIN.FREEZE_LAYERS {config.TRAIN.FREEZE_LAYERS}); set it to 1"
        )
    rates = [layer.rate for layer in task.model.sublayers() if isinstance(layer, DropPath)]
    if config.MODEL.DROPPATH and not any(rates):
        found.append(
            f"MODEL.DROPPATH = {config.MODEL.DROPPATH:g} has no effect: no block of this model drops anything "
            f"(MODEL.DEPTH {config.MODEL.DEPTH}; the first block never does); set it to 0"
        )
    return found
