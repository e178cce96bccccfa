"""The two loops: training and evaluation."""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from beit import cpu_threads, distributed, sharding, watchdog
from beit.data.dataset import ImageDataset
from beit.data.loader import Loader
from beit.data.sampler import Draw, EvalSampler, TrainSampler
from beit.logging import RunLog, progress
from beit.meter import Meter, NonFiniteLossError
from beit.optim.ema import Ema
from beit.optim.groups import set_step
from beit.optim.schedule import cosine, warmup_cosine, warmup_poly
from beit.tasks import Task


class StoppedError(Exception):
    """The run was asked to stop (SIGTERM or SIGINT) and its state is saved."""


@dataclass
class Training:
    """All that a training run is made of, on one rank."""

    task: Task
    parallel: paddle.nn.Layer
    optimizer: paddle.optimizer.Optimizer
    scaler: paddle.amp.GradScaler
    ema: Ema | None
    dataset: ImageDataset
    sampler: TrainSampler
    loader: Loader
    evaluate: Callable[[], dict[str, float]] | None
    save: Callable[[Training, str], None]
    log: RunLog
    stop: distributed.StopVote
    amp_dtype: str | None
    step: int = 0
    best: float = -math.inf
    is_resumed: bool = False


def fit(run: Training) -> dict[str, float]:
    """Train from `run.step` to the end of the last epoch; the metrics of the last evaluation.

    Every random number is a function of seed, step and rank, so a run that continues from a checkpoint of step k
    computes what the unbroken run computes after step k.

    Raises:
        NonFiniteLossError: the loss is not finite at a log step or before a save.
        StoppedError: the run was asked to stop; its state is saved.
    """
    config = run.task.config
    steps_per_epoch = run.sampler.steps_per_epoch
    total_steps = run_length(config, steps_per_epoch)
    schedules = make_schedules(config, steps_per_epoch, run.sampler.step_size)
    meter = Meter(run, total_steps, warmup_length(config, steps_per_epoch))
    cpu_threads.suit_small_models(run.task.parameters())
    metrics: dict[str, float] = {}
    start = run.step
    while True:
        epoch, first_step = divmod(run.step, steps_per_epoch)
        is_over = run.step >= total_steps
        # Also first thing after a resume at this point: the run may have died in this evaluation.
        if (run.step > start or run.is_resumed) and (first_step == 0 or is_over):
            metrics = _end_epoch(run, epoch, is_over) or metrics
        if is_over:
            return metrics
        meter.restart_clock()
        batches = _batches(run, epoch, first_step)
        for _ in range(first_step, min(steps_per_epoch, total_steps - epoch * steps_per_epoch)):
            lr, weight_decay = schedules(run.step)
            train_step(run, batches, lr, weight_decay, meter)
            run.step += 1
            stops = run.stop.passed()
            ends = run.step % steps_per_epoch == 0 or run.step == total_steps
            saves = stops or ends or due(run.step, config.SAVE_STEPS)
            if saves or due(run.step, config.REPORT_FREQ):
                meter.report(lr, weight_decay)  # refuses to go on, and to save, when the loss is not finite
            if saves:
                run.save(run, "latest")
            if stops:
                raise StoppedError(
                    f"stopped by {signal.Signals(run.stop.requested).name} after step {run.step}; "
                    "the state is saved, continue with -resume auto"
                )


def train_step(
    run: Training, batches: Iterator[dict[str, np.ndarray]], lr: float, weight_decay: float, meter: Meter
) -> None:
    """One optimizer step over `TRAIN.ACCUM_ITER` micro-batches."""
    train = run.task.config.TRAIN
    rng = _seed_step(run)
    set_step(sharding.inner(run.optimizer), lr, weight_decay)
    run.task.train()
    for micro in range(train.ACCUM_ITER):
        batch = to_device(run.task.prepare(next(batches)))
        if run.step == 0 and micro == 0:
            run.log.image("first batch", run.task.picture(batch), 0)
        # Gradients travel once per step, with the last micro-batch (divided ones with each, to stay divided).
        waits = micro + 1 < train.ACCUM_ITER and isinstance(run.parallel, paddle.DataParallel)
        with run.parallel.no_sync() if waits else nullcontext():
            with autocast(run.amp_dtype):
                losses = run.parallel(batch, rng)
            run.scaler.scale(losses["loss"] / train.ACCUM_ITER).backward()
        meter.add(losses)
    run.scaler.unscale_(run.optimizer)
    meter.add_gradient(_clip(run, train.GRAD_CLIP))
    run.scaler.step(run.optimizer)
    run.scaler.update()
    # Freed, not filled with zeros that the next backward pass would add to; the divided optimizer keeps its buffers.
    run.optimizer.clear_grad(set_to_zero=sharding.is_sharded(run.optimizer))
    if run.ema is not None:
        run.ema.update()


@paddle.no_grad()
def evaluate(
    task: Task, loader: Loader, sampler: EvalSampler, *, amp_dtype: str | None = None
) -> dict[str, float]:
    """Metrics of the task over a dataset, every sample exactly once for any number of ranks and batch size.

    `images_per_second` counts all ranks, decoding included.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    was_training = task.training
    task.eval()
    started = time.perf_counter()
    sums: dict[str, Tensor] = {}
    own = list(sampler)
    # A rank for which no sample is left takes part in the sum with a sample of weight 0.
    weight = 1 if own else 0
    batches = own or [[Draw(0, 0)]]
    for batch in progress(loader(batches), len(batches), "evaluate", rank=distributed.rank()):
        with autocast(amp_dtype):
            step_sums = task.eval_step(to_device(task.prepare(batch)))
        watchdog.beat()
        for name, value in step_sums.items():
            sums[name] = sums[name] + weight * value if name in sums else weight * value
    totals = distributed.all_reduce_sum(sums)
    seconds = time.perf_counter() - started
    if was_training:
        task.train()
    metrics = task.metrics(totals)
    if not math.isfinite(metrics.get("loss", 0.0)):
        raise NonFiniteLossError(f"the evaluation's loss is {metrics['loss']}: its metrics mean nothing")
    return {**metrics, "images_per_second": totals["count"] / seconds}


def make_schedules(
    config: Any, steps_per_epoch: int, total_batch: int
) -> Callable[[int], tuple[float, float]]:
    """Function from the step to its learning rate and weight decay (per step, as the official code)."""
    train = config.TRAIN
    factor = total_batch / train.LINEAR_SCALED_LR if train.LINEAR_SCALED_LR else 1.0
    total_steps = run_length(config, steps_per_epoch)
    warmup_steps = warmup_length(config, steps_per_epoch)
    rate = {"cosine": warmup_cosine, "poly": _warmup_poly}[train.SCHEDULE]
    end_decay = train.WEIGHT_DECAY if train.WEIGHT_DECAY_END is None else train.WEIGHT_DECAY_END

    def values(step: int) -> tuple[float, float]:
        if train.LR_PER_EPOCH:
            step -= step % steps_per_epoch
        lr = rate(
            step,
            peak=train.BASE_LR * factor,
            end=train.END_LR * factor,
            start=train.WARMUP_START_LR * factor,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
        )
        return lr, cosine(step, train.WEIGHT_DECAY, end_decay, total_steps)

    return values


def _warmup_poly(
    step: int, *, peak: float, end: float, start: float, warmup_steps: int, total_steps: int
) -> float:
    """`warmup_poly` with the arguments of `warmup_cosine`: the warm-up's first factor is `start / peak`."""
    ratio = start / peak if peak else 0.0
    return warmup_poly(
        step, peak=peak, end=end, ratio=ratio, warmup_steps=warmup_steps, total_steps=total_steps
    )


def run_length(config: Any, steps_per_epoch: int) -> int:
    """Steps of the whole run: TRAIN.MAX_STEPS where it is given, else TRAIN.NUM_EPOCHS."""
    train = config.TRAIN
    return train.MAX_STEPS if train.MAX_STEPS is not None else steps_per_epoch * train.NUM_EPOCHS


def warmup_length(config: Any, steps_per_epoch: int) -> int:
    """Steps of the warm-up: TRAIN.WARMUP_STEPS where it is given, else TRAIN.WARMUP_EPOCHS."""
    train = config.TRAIN
    return (
        train.WARMUP_STEPS if train.WARMUP_STEPS is not None else int(train.WARMUP_EPOCHS * steps_per_epoch)
    )


def due(count: int, every: int) -> bool:
    """Whether something that happens every `every` (0: never) happens after `count`."""
    return every > 0 and count % every == 0


def autocast(dtype: str | None) -> Any:
    """Mixed precision of level O1 in `dtype`, or nothing for None."""
    return nullcontext() if dtype is None else paddle.amp.auto_cast(level="O1", dtype=dtype)


def to_device(batch: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of a batch on the device of this rank; on a GPU the host does not wait for the copy."""
    if paddle.get_device().startswith("gpu"):
        pinned = paddle.CUDAPinnedPlace()
        return {
            name: paddle.to_tensor(array, place=pinned).cuda(blocking=False) for name, array in batch.items()
        }
    tensors = {name: paddle.empty(list(array.shape), str(array.dtype)) for name, array in batch.items()}
    for name, tensor in tensors.items():
        tensor.set_value(batch[name])  # paddle.to_tensor loses 70 bytes of host memory with each call (3.3.1)
    return tensors


def _batches(run: Training, epoch: int, first_step: int) -> Iterator[dict[str, np.ndarray]]:
    steps: Iterable[list[Any]] = run.sampler.batches(epoch, first_step)
    return iter(run.loader(itertools.chain.from_iterable(steps)))


def _seed_step(run: Training) -> np.random.Generator:
    """Seed the device generator for this step and return the host generator: both functions of (seed, step, rank)."""
    sequence = np.random.SeedSequence([run.task.config.SEED, run.step, distributed.rank()])
    device_seed, host_seed = sequence.generate_state(2)
    paddle.seed(int(device_seed))
    return np.random.default_rng(int(host_seed))


@paddle.no_grad()
def _clip(run: Training, limit: float | None) -> Tensor:
    """Scale the gradients of all groups together to a global norm of at most `limit`; the norm before.

    Paddle's optimizer would clip each parameter group by itself, and its norm of a large tensor adds up one float32 after
    another on a CPU: slower than AdamW and off by a thousandth.
    """
    gradients = [parameter.grad for parameter in run.task.parameters() if parameter.grad is not None]
    squares = cpu_threads.each(lambda gradient: paddle.square(gradient).sum(), gradients) or [
        paddle.zeros([])
    ]
    norm = sharding.gradient_norm(run.optimizer, paddle.stack(squares).sum())
    if limit:
        factor = (limit / (norm + 1e-6)).clip(max=1.0)  # as paddle.nn.utils.clip_grad_norm_
        cpu_threads.each(lambda gradient: gradient.multiply_(factor), gradients)
    return norm


def _end_epoch(run: Training, epoch: int, is_last: bool) -> dict[str, float]:
    """Evaluate and keep checkpoints as configured; the metrics, if it was time for them."""
    config, metrics = run.task.config, {}
    if run.evaluate is not None and (due(epoch, config.VALIDATE_FREQ) or is_last):
        with run.ema.swapped() if run.ema is not None else nullcontext():
            metrics = run.evaluate()
            score = run.task.score(metrics)
            is_best = score > run.best
            if is_best:
                run.best = score
                run.save(run, "best")
        run.log.scalars("val", metrics, run.step)
        log_report(run.task, run.log, run.step)
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "count")
        run.log.text(
            f"evaluation after epoch {run.step / run.sampler.steps_per_epoch:.4g}: {text}"
            + ("  (best so far)" if is_best else "")
        )
    if due(epoch, config.SAVE_FREQ) or is_last:
        run.save(run, "epoch")
    if is_last:
        with run.ema.swapped() if run.ema is not None else nullcontext():
            run.save(run, "model")
    return metrics


def log_report(task: Task, log: RunLog, step: int) -> None:
    """Let the task write about the evaluation that has just ended; its pictures go into the log."""
    if distributed.rank() == 0:
        for name, picture in task.report(Path(task.config.SAVE)).items():
            log.image(name, picture, step)
