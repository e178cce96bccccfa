"""Image classification: fine-tuning and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor
from yacs.config import CfgNode

from beit.beit import build_beit
from beit.cpu import split_batch
from beit.data.batch_transforms import erase, normalize
from beit.data.dataset import ImageDataset, bad_images_file, build_dataset
from beit.data.mixup import build_mixup
from beit.optim.groups import is_no_decay, parameter_groups
from beit.tasks.losses import label_smoothing_cross_entropy, soft_target_cross_entropy
from beit.tasks.metrics import classification_metrics, classification_sums
from beit.tasks.task import Batch, Task

# B batch, K classes


class Classify(Task):
    """Classifier with the fine-tuning recipe of BEiT.

    Source: unilm/beit/run_class_finetuning.py and engine_for_finetuning.py.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        if not config.MODEL.NUM_CLASSES:
            raise ValueError("MODEL.NUM_CLASSES = 0; TASK: classify needs classes to tell apart")
        self.config = config
        self.model = build_beit(config)
        self.mixup = build_mixup(config)

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset:
        return build_dataset(self.config, split, bad_images=bad_images_file(self.config, split))

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        images, labels = self.normalized(batch["image"]), batch["label"]
        images = erase(images, batch["erase"], self.config.TRAIN.RANDOM_ERASE_MODE)
        if self.mixup is None:
            logits = self.model(images)
            loss = label_smoothing_cross_entropy(logits, labels, self.config.TRAIN.SMOOTHING)
        else:
            images, targets = self.mixup(images, labels, rng)
            logits = self.model(images)
            loss = soft_target_cross_entropy(logits, targets)
        # With mixed images an image counts as right when its own label wins.
        correct = (logits.argmax(-1) == labels).astype("float32").mean()
        return {"loss": loss, "accuracy": 100.0 * correct.detach()}

    def param_groups(self) -> list[dict[str, Any]]:
        train = self.config.TRAIN
        return parameter_groups(
            self.model.named_parameters(),
            self.model.layer_id,
            num_layers=self.model.depth,
            layer_decay=train.LAYER_DECAY,
            weight_decay=train.WEIGHT_DECAY,
            no_decay=partial(is_no_decay, decay_position_tables=train.DECAY_REL_POS_BIAS),
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        logits = split_batch(lambda images: self.model(self.normalized(images)), batch["image"])
        return classification_sums(logits, batch["label"])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        return classification_metrics(sums)

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        return metrics["top1"]

    def preview(self, batch: Batch) -> np.ndarray:
        """The first images of the batch after geometry and RandAugment, erased as the model sees them, four a row."""
        data = self.config.DATA
        images = self.normalized(batch["image"][:16])
        images = erase(images, batch["erase"][:16], self.config.TRAIN.RANDOM_ERASE_MODE)
        mean, std = (
            paddle.to_tensor(value).reshape([1, 3, 1, 1]) for value in (data.IMAGENET_MEAN, data.IMAGENET_STD)
        )
        pixels = (
            ((images * std + mean).clip(0.0, 1.0) * 255.0).round().astype("uint8").numpy()
        )  # [B, 3, H, W]
        pixels = pixels[: max(1, len(pixels) // 4 * 4)]
        rows = np.split(pixels, max(1, len(pixels) // 4))
        return np.concatenate([np.concatenate(list(row), axis=2) for row in rows], axis=1).transpose(1, 2, 0)

    def normalized(self, images: Tensor) -> Tensor:
        """Images `[B, 3, H, W]` uint8 as the model takes them."""
        return normalize(images, self.config.DATA.IMAGENET_MEAN, self.config.DATA.IMAGENET_STD)
