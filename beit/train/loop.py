"""The two loops: training and evaluation."""

from __future__ import annotations

import itertools
import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import paddle
from paddle import Tensor

from beit.data.batch_transforms import to_device
from beit.data.loader import Loader
from beit.data.sampler import EvalSampler, Sample
from beit.logging import RunLog, progress
from beit.optim.groups import set_step
from beit.optim.schedule import make_schedules, run_length, warmup_length
from beit.parallel import ranks, sharding, watchdog
from beit.tasks import Task
from beit.tasks.task import Batch
from beit.train import resume
from beit.train.meter import Meter
from beit.train.state import Evaluation, NonFiniteLossError, StoppedError, Training, TrainState


def fit(run: Training) -> dict[str, float]:
    """Train from `run.step` to the end of the last epoch, or to an early stop; returns the metrics of the last evaluation.

    Every random number is a function of seed, step and rank, so a run that continues from a checkpoint of step k
    computes what the unbroken run computes after step k.

    Raises:
        NonFiniteLossError: the loss is not finite at a log step or before a save.
        StoppedError: the run was asked to stop; its state is saved.
    """
    config = run.config
    steps_per_epoch = run.sampler.steps_per_epoch
    total_steps = run_length(config, steps_per_epoch)
    schedules = make_schedules(config, steps_per_epoch, run.sampler.step_size)
    meter = Meter(run, total_steps, warmup_length(config, steps_per_epoch))
    metrics: dict[str, float] = {}
    start = run.step
    while True:
        epoch, first_step = divmod(run.step, steps_per_epoch)
        is_over = run.step >= total_steps
        # Also right after a resume at the end of an epoch: the run may have died in its evaluation.
        if (run.step > start or run.is_resumed) and (first_step == 0 or is_over):
            found, is_over = _end_epoch(run, epoch, is_over)
            metrics = found or metrics
        if is_over:
            return metrics
        meter.restart_clock()
        batches = _batches(run, epoch, first_step)
        for _ in range(first_step, min(steps_per_epoch, total_steps - epoch * steps_per_epoch)):
            lr, weight_decay = schedules(run.step)
            meter.add(*train_step(run, batches, lr, weight_decay))
            run.step += 1
            stops = run.stop.passed()
            ends = run.step % steps_per_epoch == 0 or run.step == total_steps
            saves = stops or ends or due(run.step, config.SAVE_STEPS)
            if saves or due(run.step, config.REPORT_FREQ):
                meter.report(lr, weight_decay)  # before saving: it raises when the loss is not finite
            if saves:
                resume.save(run, "latest")
            if stops:
                raise StoppedError(
                    f"stopped by {signal.Signals(run.stop.requested).name} after step {run.step}; "
                    "the state is saved, continue with -resume auto"
                )


def train_step(
    state: TrainState, batches: Iterator[Batch], lr: float, weight_decay: float
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """One optimizer step over `TRAIN.ACCUM_ITER` micro-batches; the losses of each, and the gradient norm."""
    train = state.config.TRAIN
    rng = _seed_step(state)
    set_step(sharding.unwrap_optimizer(state.optimizer), lr, weight_decay)
    state.task.train()
    losses = []
    for micro in range(train.ACCUM_ITER):
        # Ranks exchange gradients once per step, with the last micro-batch (with sharding, with each of them).
        skips_sync = micro + 1 < train.ACCUM_ITER and isinstance(state.parallel, paddle.DataParallel)
        with state.parallel.no_sync() if skips_sync else nullcontext():
            with autocast(state.amp_dtype):
                losses.append(state.parallel(next(batches), rng))
            state.scaler.scale(losses[-1]["loss"] / train.ACCUM_ITER).backward()
    state.scaler.unscale_(state.optimizer)
    grad_norm = _clip(state, train.GRAD_CLIP)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if sharding.is_sharded(state.optimizer):  # Paddle's wrapper zeroes its buffers and takes no argument
        state.optimizer.clear_grad()
    else:
        state.optimizer.clear_grad(set_to_zero=False)  # gradients are freed
    if state.ema is not None:
        state.ema.update()
    return losses, grad_norm


@paddle.no_grad()
def evaluate(task: Task, loader: Loader, sampler: EvalSampler, *, amp_dtype: str | None = None) -> Evaluation:
    """Evaluate the task on a dataset, every sample exactly once for any number of ranks and any batch size.

    `images_per_second` counts all ranks, decoding included. The task is left in evaluation mode.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite.
    """
    task.eval()
    started = time.perf_counter()
    sums: dict[str, Tensor] = {}
    first: Batch = {}
    own = list(sampler)
    # A rank without samples still takes part in the all-reduce, with one sample of weight 0.
    weight = 1 if own else 0
    batches = own or [[Sample(0, 0)]]
    for arrays in progress(loader(batches), len(batches), "evaluate", rank=ranks.rank()):
        batch = to_device(task.prepare(arrays))
        first = first or batch
        with autocast(amp_dtype):
            step_sums = task.eval_step(batch)
        watchdog.heartbeat()
        for name, value in step_sums.items():
            sums[name] = sums[name] + weight * value if name in sums else weight * value
    totals = ranks.all_reduce_sum(sums)
    seconds = time.perf_counter() - started
    metrics = task.metrics(totals)
    if not math.isfinite(metrics.get("loss", 0.0)):
        raise NonFiniteLossError(f"the evaluation's loss is {metrics['loss']}: its metrics mean nothing")
    return Evaluation({**metrics, "images_per_second": totals["count"] / seconds}, totals, first)


def due(count: int, every: int) -> bool:
    """Whether something that happens every `every` (0: never) happens after `count`."""
    return every > 0 and count % every == 0


def autocast(dtype: str | None) -> AbstractContextManager[None]:
    """Mixed precision of level O1 in `dtype`, or nothing for None."""
    return nullcontext() if dtype is None else paddle.amp.auto_cast(level="O1", dtype=dtype)


def write_report(task: Task, evaluation: Evaluation, log: RunLog, step: int) -> None:
    """Write the task's report on an evaluation into the output folder, and its images into the log; on rank 0."""
    if ranks.rank() == 0:
        images = task.write_report(Path(task.config.SAVE), evaluation.sums, evaluation.batch)
        for name, image in images.items():
            log.image(name, image, step)


def _batches(run: Training, epoch: int, first_step: int) -> Iterator[Batch]:
    """The micro-batches of an epoch from step `first_step` on, on the device; the first of a run is logged as an image."""
    micro_batches = itertools.chain.from_iterable(run.sampler.batches(epoch, first_step))
    for number, arrays in enumerate(run.loader(micro_batches)):
        batch = to_device(run.task.prepare(arrays))
        if run.step == 0 and number == 0:
            run.log.image("first batch", run.task.preview(batch), 0)
        yield batch


def _seed_step(state: TrainState) -> np.random.Generator:
    """Seed the device generator for this step and return the host generator: both functions of (seed, step, rank)."""
    sequence = np.random.SeedSequence([state.config.SEED, state.step, ranks.rank()])
    device_seed, host_seed = sequence.generate_state(2)
    paddle.seed(int(device_seed))
    return np.random.default_rng(int(host_seed))


@paddle.no_grad()
def _clip(state: TrainState, limit: float | None) -> Tensor:
    """Scale the gradients of all groups together to a global norm of at most `limit`; the norm before.

    Paddle's optimizer would clip each parameter group by itself. Its norm of a large tensor also accumulates in float32
    on a CPU, which is slower than AdamW and off by a thousandth.
    """
    gradients = [parameter.grad for parameter in state.task.parameters() if parameter.grad is not None]
    squares = [paddle.square(gradient).sum() for gradient in gradients] or [paddle.zeros([])]
    norm = sharding.gradient_norm(state.optimizer, paddle.stack(squares).sum())
    if limit:
        factor = (limit / (norm + 1e-6)).clip(max=1.0)  # as paddle.nn.utils.clip_grad_norm_
        for gradient in gradients:
            gradient.multiply_(factor)
    return norm


def _end_epoch(run: Training, epoch: int, is_last: bool) -> tuple[dict[str, float], bool]:
    """Evaluate and keep checkpoints as configured; the metrics, if an evaluation was due, and whether the run ends."""
    config, metrics = run.config, {}
    if run.validation is not None and (due(epoch, config.VALIDATE_FREQ) or is_last):
        with run.ema.swapped() if run.ema is not None else nullcontext():
            evaluation = evaluate(run.task, *run.validation, amp_dtype=run.amp_dtype)
            metrics = run.metrics = evaluation.metrics
            score = run.task.selection_metric(metrics)
            is_best = score > run.best
            run.since_best = 0 if is_best else run.since_best + 1
            if is_best:
                run.best = score
                resume.save(run, "best")
            write_report(run.task, evaluation, run.log, run.step)
        run.log.scalars("val", metrics, run.step)
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name != "count")
        run.log.text(
            f"evaluation after epoch {run.step / run.sampler.steps_per_epoch:.4g}: {text}"
            + ("  (best so far)" if is_best else "")
        )
        limit = config.TRAIN.EARLY_STOP  # every rank has the same metrics and decides the same
        if limit is not None and run.since_best >= limit and not is_last:
            is_last = True
            run.log.text(
                f"early stop: the last {run.since_best} evaluation(s) are not better than the best, {run.best:.4f} "
                f"(TRAIN.EARLY_STOP {limit})"
            )
    if due(epoch, config.SAVE_FREQ) or is_last:
        resume.save(run, "epoch")
    if is_last:
        with run.ema.swapped() if run.ema is not None else nullcontext():
            resume.save(run, "model")
    return metrics, is_last
