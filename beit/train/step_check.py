"""A trial of some training steps (time, memory, finite loss), and config keys without effect. For `beit check`."""

from __future__ import annotations

import itertools
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.config import batch_size_eval
from beit.data.batch_transforms import to_device
from beit.data.dataset import ImageDataset
from beit.data.loader import build_loader
from beit.data.sampler import EvalSampler, build_train_sampler
from beit.layers.block import DropPath
from beit.optim.ema import Ema
from beit.optim.schedule import run_length
from beit.tasks import Task
from beit.train.loop import evaluate, train_step
from beit.train.state import TrainState

_WARMUP_STEPS = 2  # the first steps also start the workers, allocate and tune
_MEASURED_STEPS = 12
_RATE = 1e-6  # learning rate of the trial: at that of the recipe the loss could diverge without its warm-up
_EVALUATED = 4  # smallest number of validation images in the timed evaluation; two batches if these are more


@dataclass(frozen=True)
class StepReport:
    """Seconds of an optimizer step with data loading, seconds of it that the device waited for data, and peak bytes.

    Args:
        seconds, wait_seconds: means over the measured steps.
        evaluation_seconds: of a validation image; 0 where there is none.
        images: of a step.
        peak_bytes, where: memory, and which.
        loss: of the last step.
    """

    seconds: float
    wait_seconds: float
    evaluation_seconds: float
    images: int
    peak_bytes: int
    where: str
    loss: float


def dry_step(task: Task, dataset: ImageDataset, *, seconds: float = 20.0) -> StepReport:
    """Run some optimizer steps as training does, with its data workers, at a rate that hardly changes the weights.

    Memory is the peak that Paddle allocated on the GPU, or on a CPU the peak of the whole process. As in training, the next
    readable image takes the place of an unreadable one.

    Args:
        task: of the run.
        dataset: its training data.
        seconds: time after which no further step is measured; at least one step is.

    Raises:
        ValueError: the loss is not finite; as `ImageError`, ten images in a row cannot be read.
    """
    config = task.config
    sampler = build_train_sampler(config, len(dataset))
    is_gpu = paddle.device.get_device().startswith("gpu")
    state = TrainState(
        config=config,
        task=task,
        parallel=task,
        optimizer=task.optimizer(task.param_groups()),
        scaler=paddle.amp.GradScaler(enable=False),
        ema=Ema(task.model, config.TRAIN.MODEL_EMA_DECAY) if config.TRAIN.MODEL_EMA else None,
        amp_dtype="bfloat16" if config.AMP and is_gpu else None,
    )
    steps, begin, waited = 0, 0.0, 0.0
    with (
        tempfile.TemporaryDirectory() as folder,
        build_loader(config, dataset) as loader,
    ):
        dataset.bad_images = Path(folder) / "bad_images.txt"  # the folder of the run does not exist yet
        epochs = (itertools.chain.from_iterable(sampler.batches(epoch, 0)) for epoch in itertools.count())
        arrays = loader(itertools.chain.from_iterable(epochs))
        batches = (to_device(task.prepare(batch)) for batch in arrays)
        while steps < _MEASURED_STEPS and (steps < 1 or time.perf_counter() - begin < seconds):
            if state.step == _WARMUP_STEPS:
                begin, waited = time.perf_counter(), loader.wait_seconds
            losses, _ = train_step(state, batches, _RATE, config.TRAIN.WEIGHT_DECAY)
            loss = float(losses[-1]["loss"])  # waits for the device
            if not np.isfinite(loss):
                raise ValueError(
                    f"the loss of a first step is {loss}; check the data, DATA.IMAGENET_STD and TRAIN.BASE_LR"
                )
            state.step += 1
            steps = max(0, state.step - _WARMUP_STEPS)
        duration, waited = (time.perf_counter() - begin) / steps, (loader.wait_seconds - waited) / steps
    if is_gpu:
        peak, where = paddle.device.cuda.max_memory_allocated(), "GPU memory"
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "memory of the process"
    return StepReport(duration, waited, _evaluation_seconds(task), sampler.step_size, peak, where, loss)


def _evaluation_seconds(task: Task) -> float:
    """The time in which an image is evaluated, with its data workers, which the first of two evaluations starts."""
    config, dataset = task.config, task.dataset("val")
    if dataset is None or not len(dataset):
        return 0.0
    count = min(len(dataset), max(_EVALUATED, 2 * batch_size_eval(config)))
    sampler = EvalSampler(count, batch_size=batch_size_eval(config))
    with build_loader(config, dataset) as loader:
        evaluate(task, loader, sampler)
        begin = time.perf_counter()
        evaluate(task, loader, sampler)
        return (time.perf_counter() - begin) / count


def training_seconds(config: CfgNode, step: StepReport, train_images: int, val_images: int) -> float:
    """The time of a whole training on one device: its steps and its evaluations.

    Args:
        config: of the run.
        step: of `dry_step`.
        train_images, val_images: numbers of images.
    """
    steps_per_epoch = build_train_sampler(config, train_images).steps_per_epoch
    steps = run_length(config, steps_per_epoch)
    evaluations = -(-steps // steps_per_epoch // config.VALIDATE_FREQ)
    return steps * step.seconds + evaluations * val_images * step.evaluation_seconds


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
