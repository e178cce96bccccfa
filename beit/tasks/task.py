"""The contract between the loop and what it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn
from yacs.config import CfgNode

from beit.checkpoint.load import load_pretrained
from beit.checkpoint.report import LoadReport
from beit.data.dataset import ImageDataset

Batch = dict[str, Tensor]


class Task(nn.Layer):
    """A model with its data, loss and measure. A Layer, so that `paddle.DataParallel(task)` synchronizes it.

    `model` is the Layer whose weights are shipped: checkpoints hold it, never the task.
    """

    model: nn.Layer
    config: CfgNode

    def load(self, path: str) -> LoadReport:
        """Take the initial weights from a checkpoint (`-pretrained`)."""
        return load_pretrained(self.model, path)

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset | None:
        """The training or the validation data; None for no validation."""
        raise NotImplementedError

    def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A collated batch, with what the host works out before it travels: asking the device would mean to wait for it."""
        return batch

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Scalars of a training batch: `"loss"` is minimized, the others are logged.

        `rng` is a function of seed, step and rank: what is drawn from it is the same after a resume.
        """
        raise NotImplementedError

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer, made by `optim.groups.parameter_groups`."""
        raise NotImplementedError

    def optimizer(self, groups: list[dict[str, Any]]) -> paddle.optimizer.Optimizer:
        """The optimizer over `param_groups()`; the loop sets its rate and weight decay before each step."""
        train = self.config.TRAIN
        return paddle.optimizer.AdamW(
            learning_rate=train.BASE_LR,
            parameters=groups,
            beta1=train.OPTIMIZER.BETAS[0],
            beta2=train.OPTIMIZER.BETAS[1],
            epsilon=train.OPTIMIZER.EPS,
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over the samples of a batch, with their `"count"`; nothing is divided here."""
        raise NotImplementedError

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Measures of the sums over all ranks."""
        raise NotImplementedError

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The measure by which the best checkpoint is chosen; larger is better."""
        raise NotImplementedError

    def preview(self, batch: Batch) -> np.ndarray:
        """A look at a training batch, uint8 `[H, W, 3]`."""
        raise NotImplementedError

    def health_warnings(self, means: Mapping[str, float], is_warm: bool) -> list[str]:
        """What a reader of a log line should worry about; `means` are its numbers, `is_warm` after the warm-up.

        Called on every rank with the same numbers.
        """
        return []

    def write_report(self, folder: Path) -> dict[str, np.ndarray]:
        """Pictures of the evaluation that has just ended, uint8 `[H, W, 3]` by name; its files go into `folder`.

        Called on rank 0 after each evaluation.
        """
        return {}
