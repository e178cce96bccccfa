"""The log line of a run: mean losses, gradient norm and speed; stops the run when a loss is not finite."""

from __future__ import annotations

import math
import time

from paddle import Tensor

from beit.logging import format_duration
from beit.parallel import ranks
from beit.train.state import NonFiniteLossError, Training

_MAX_DATA_WAIT = 0.2  # fraction of the time; above it data loading limits the speed


class Meter:
    """Adds up losses on the device; the host reads them only when a log line is due."""

    def __init__(self, run: Training, total_steps: int, warmup_steps: int) -> None:
        self._run = run
        self._total_steps = total_steps
        self._warmup_steps = warmup_steps
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._since = time.perf_counter()
        self._waited = run.loader.wait_seconds
        self._unreadable = 0
        self._is_first = True
        self._is_starved = False

    def add(self, losses: list[dict[str, Tensor]], grad_norm: Tensor) -> None:
        """Add the result of `train_step`: the losses of each micro-batch and the gradient norm."""
        for values in (*losses, {"grad_norm": grad_norm}):
            for name, value in values.items():
                value = value.detach()
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def report(self, lr: float, weight_decay: float) -> None:
        """Log the means since the last line and reset them.

        Raises:
            NonFiniteLossError: the loss is not finite.
        """
        if not self._steps:
            return
        run, config = self._run, self._run.config
        world_size, steps = ranks.world_size(), self._steps
        totals = ranks.all_reduce_sum(self._sums)
        divisors = dict.fromkeys(totals, world_size * steps * config.TRAIN.ACCUM_ITER) | {
            "grad_norm": world_size * steps
        }
        means = {name: value / divisors[name] for name, value in totals.items()}
        seconds = time.perf_counter() - self._since
        means["lr"], means["weight_decay"] = lr, weight_decay
        images = run.sampler.images_before(run.step) - run.sampler.images_before(run.step - steps)
        means["images_per_second"] = images / seconds
        means["data_wait"] = (run.loader.wait_seconds - self._waited) / seconds
        if run.scaler.is_enable():
            means["loss_scale"] = float(run.scaler.state_dict()["scale"].item())  # of shape [1]
        self._refuse_non_finite(means)
        self._refuse_overflow_storm(means)
        self._count_unreadable()
        run.log.scalars("train", means, run.step)
        run.log.text(self._line(means, seconds / steps))
        is_warm = run.step >= self._warmup_steps
        for message in run.task.health_warnings(means, is_warm):
            run.log.text(f"warning: {message}")
        self._warn_of_waiting(means["data_wait"])
        self._sums, self._steps = {}, 0
        self._since, self._waited = time.perf_counter(), run.loader.wait_seconds

    def restart_clock(self) -> None:
        """Exclude the time before this call from the next reported speed."""
        self._since, self._waited = time.perf_counter(), self._run.loader.wait_seconds

    def _line(self, means: dict[str, float], seconds_per_step: float) -> str:
        run = self._run
        epoch = run.step / run.sampler.steps_per_epoch
        left = format_duration((self._total_steps - run.step) * seconds_per_step)
        losses = "  ".join(
            f"{name} {means[name]:.4f}" for name in means if name in self._sums and name != "grad_norm"
        )
        return (
            f"epoch {epoch:.2f}/{self._total_steps / run.sampler.steps_per_epoch:.4g}  step {run.step}/{self._total_steps}  {losses}  "
            f"grad {means['grad_norm']:.3f}  lr {means['lr']:.3e}  {means['images_per_second']:.1f} images/s  "
            f"data wait {100 * means['data_wait']:.0f} %  {left} left"
        )

    def _warn_of_waiting(self, share: float) -> None:
        """Warn once that data loading is too slow; not at the first line, which includes the start of the workers."""
        if share > _MAX_DATA_WAIT and not self._is_first and not self._is_starved:
            self._is_starved = True
            self._run.log.text(
                f"warning: {100 * share:.0f} % of the time is spent waiting for images, the device could be faster: raise "
                f"DATA.NUM_WORKERS (it is {self._run.loader.num_workers}, one per CPU core and rank at most), or store "
                "the images smaller or on a faster disk"
            )
        self._is_first = False

    def _count_unreadable(self) -> None:
        run, config = self._run, self._run.config
        bad, images = len(run.dataset.unreadable()), len(run.dataset)
        if bad > self._unreadable:
            self._unreadable = bad
            run.log.text(
                f"warning: {bad} of {images} training images cannot be read and were replaced by others, "
                f"listed in {run.dataset.bad_images}"
            )
        if bad > config.DATA.MAX_BAD_FRACTION * images:
            raise ValueError(
                f"{bad} of {images} training images cannot be read, more than DATA.MAX_BAD_FRACTION = "
                f"{config.DATA.MAX_BAD_FRACTION:g}; they are listed in {run.dataset.bad_images}"
            )

    def _refuse_non_finite(self, means: dict[str, float]) -> None:
        run = self._run
        # With loss scaling a step with an infinite gradient is skipped on purpose. All losses of the task are checked,
        # so that the message names the one that is not finite.
        watched = [name for name in self._sums if name != "grad_norm" or not run.scaler.is_enable()]
        bad = {name: means[name] for name in watched if not math.isfinite(means[name])}
        if not bad:
            return
        found = ", ".join(f"{name} = {value}" for name, value in bad.items())
        raise NonFiniteLossError(
            f"{found} within the {self._steps} steps up to step {run.step} (lr {means['lr']:.3e}); the newest "
            f"checkpoint in {run.config.SAVE} is from before. Lower TRAIN.BASE_LR, set TRAIN.GRAD_CLIP, or run "
            "without -amp, and continue with -resume auto"
        )

    def _refuse_overflow_storm(self, means: dict[str, float]) -> None:
        """Each step that overflows float16 is skipped and halves the loss scale; below 1, at least the last 17 were skipped."""
        if means.get("loss_scale", 1.0) < 1.0:
            raise NonFiniteLossError(
                f"step {self._run.step}: the gradients overflow float16 again and again (loss scale "
                f"{means['loss_scale']:g}) and every step is skipped. Lower TRAIN.BASE_LR, or run without -amp"
            )
