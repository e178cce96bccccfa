"""The interface between the training loop and what it trains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import paddle
from paddle import Tensor, nn
from yacs.config import CfgNode

from beit.checkpoint.report import LoadReport
from beit.data.batch_transforms import normalize
from beit.data.class_matching import KnownClasses
from beit.data.dataset import ImageDataset
from beit.metadata.class_names import parse_class_names
from beit.metadata.files import RUN_CLASS_NAMES, Palette
from beit.models.load import load_pretrained
from beit.optim.groups import Group, is_no_decay, parameter_groups
from beit.tasks.previews import tile
from beit.text_files import read_text

# B batch, H, W image size in pixels

Batch = dict[str, Tensor]

PREVIEW_IMAGES = 16
"""Largest number of images in a preview of four images per row."""

Sums = Mapping[str, Any]
"""Sums over images by name: Python floats, or float64 arrays where a sum has several entries."""


class Engine(Protocol):
    """What computes `model(images)` in place of a model; `beit.deploy.compiled.CompiledModel` is one."""

    @property
    def engine_name(self) -> str:
        """Its name with its version."""

    def __call__(self, images: Tensor) -> Tensor:
        """The results of the model for normalized images `[B, 3, H, W]`."""


class Task(nn.Layer):
    """A model with its data, loss and metrics.

    It is a Layer, so that `paddle.DataParallel(task)` synchronizes exactly the parameters that are trained. Frozen
    networks (teacher, tokenizer) are kept out of its sublayers.

    Attributes:
        model: the Layer whose weights checkpoints hold; never the task itself.
        config: the frozen config.
        classes: of the head, where it came from a file that names them; `dataset` labels the images for it.
        engine: computes `model(images)` in `eval_step`, where an engine does it in place of the model; only tasks with
            `uses_engine` have one.
    """

    model: nn.Layer
    config: CfgNode
    classes: KnownClasses | None = None
    engine: Engine | None = None
    uses_engine: ClassVar[bool] = False
    """Whether `eval_step` uses `engine`."""

    @property
    def palette(self) -> Palette:
        """Colors of the classes in class maps; empty where there are none."""
        return ()

    def load(self, path: str) -> LoadReport:
        """Load initial weights from a checkpoint (`-pretrained`). Raises as `load_pretrained`, also on NaN."""
        key = self.config.MODEL.PRETRAINED_KEY
        report = load_pretrained(self.model, path, key=key)
        names, has_new_head = report.info.class_names, any("head" in name for name in report.new)
        if names is not None and not has_new_head and self.config.DATA.MATCH_CLASS_NAMES:
            self.classes = KnownClasses(names, path)
        return report

    def resume_classes(self, checkpoint: Path) -> None:
        """Take the classes of the run that wrote a checkpoint, where the run named them."""
        file = checkpoint.with_name(RUN_CLASS_NAMES)
        if file.is_file() and self.config.DATA.MATCH_CLASS_NAMES:
            self.classes = KnownClasses(parse_class_names(read_text(file)), str(file))

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset | None:
        """The training or validation dataset; None for "val" if there is no validation data."""
        raise NotImplementedError

    def prepare(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add arrays to a collated batch on the host that would need a device synchronization if computed later."""
        return batch

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """Scalars of a training batch: `"loss"` is minimized, the others are logged.

        Args:
            batch: tensors on the device.
            rng: generator seeded by seed, step and rank, so that a resumed run draws the same numbers.
        """
        raise NotImplementedError

    def freeze(self) -> None:
        """Freeze the weights that the config does not train; called after loading."""
        if self.config.TRAIN.FREEZE_LAYERS:
            self.model.freeze_layers(self.config.TRAIN.FREEZE_LAYERS)

    def param_groups(self) -> list[Group]:
        """Parameter groups for the optimizer, with the layer decay and the weight decay of `TRAIN.*`."""
        train = self.config.TRAIN
        return parameter_groups(
            self.model.named_parameters(),
            self.model.layer_id,
            num_layers=self.model.depth,
            layer_decay=train.LAYER_DECAY,
            weight_decay=train.WEIGHT_DECAY,
            no_decay=partial(is_no_decay, decay_position_tables=train.DECAY_REL_POS_BIAS),
        )

    def optimizer(self, groups: list[Group]) -> paddle.optimizer.Optimizer:
        """The optimizer over `param_groups()`; the loop sets its learning rate and weight decay before each step."""
        train = self.config.TRAIN
        return paddle.optimizer.AdamW(
            learning_rate=train.BASE_LR,
            parameters=groups,
            beta1=train.OPTIMIZER.BETAS[0],
            beta2=train.OPTIMIZER.BETAS[1],
            epsilon=train.OPTIMIZER.EPS,
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over the images of a batch, and their number as `"count"`; nothing is divided here."""
        raise NotImplementedError

    def metrics(self, sums: Sums) -> dict[str, float]:
        """Metrics of an evaluation.

        Args:
            sums: the results of `eval_step`, added over all batches and ranks.
        """
        raise NotImplementedError

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The metric that selects the best checkpoint; larger is better."""
        raise NotImplementedError

    def preview(self, batch: Batch) -> np.ndarray:
        """The first images of a training batch in one image for the log, uint8 `[H, W, 3]`; four per row."""
        return tile(batch["image"][:PREVIEW_IMAGES].numpy().transpose(0, 2, 3, 1))

    def health_warnings(self, means: Mapping[str, float], is_warm: bool) -> list[str]:
        """Warnings about the state of the training, for the log. Called on every rank with the same numbers.

        Args:
            means: the numbers of a log line.
            is_warm: the warm-up is over.
        """
        return []

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write detailed results of an evaluation into a folder; called on rank 0, in evaluation mode.

        Args:
            folder: output folder of the run.
            sums: what `metrics` was given.
            batch: the first batch of the evaluation.

        Returns:
            Images for the log by name, uint8 `[H, W, 3]`.
        """
        return {}

    def normalize(self, images: Tensor) -> Tensor:
        """Images uint8 `[B, 3, H, W]` as float32, normalized with `DATA.IMAGENET_MEAN` and `DATA.IMAGENET_STD`."""
        return normalize(images, self.config.DATA.IMAGENET_MEAN, self.config.DATA.IMAGENET_STD)


def require_classes(config: CfgNode) -> None:
    """Refuse a config without classes.

    Raises:
        ValueError: `MODEL.NUM_CLASSES` is 0.
    """
    if not config.MODEL.NUM_CLASSES:
        raise ValueError(f"MODEL.NUM_CLASSES = 0; TASK: {config.TASK} needs at least one class")
