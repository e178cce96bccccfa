"""Semantic segmentation with UPerNet: training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor
from yacs.config import CfgNode

from beit.config import batch_size_eval
from beit.data.batch_transforms import box_mask, normalize
from beit.data.dataset import bad_images_file
from beit.data.image_mask import IGNORE, class_names_and_palette, write_palette
from beit.data.segmentation import SegmentationDataset, build_segmentation_dataset
from beit.models.segmentation_inference import build_protocol, segment
from beit.models.upernet import build_upernet
from beit.optim.groups import is_no_decay, parameter_groups
from beit.tasks.losses import segmentation_cross_entropy
from beit.tasks.metrics import confusion_matrix, segmentation_metrics, segmentation_scores
from beit.tasks.task import Batch, Task

# B batch, K classes, H x W pixels


class Segment(Task):
    """UPerNet with the recipe of BEiT's ADE20K models.

    Source: unilm/beit/semantic_segmentation. Deviation: `cls_token` takes no weight decay, as the official code
    intends; there the name is compared without its prefix and it decays.

    Raises:
        ValueError: the model or the protocol cannot be built, or evaluation batches hold several pictures.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        if batch_size_eval(config) != 1:
            raise ValueError(
                "pictures are evaluated at their own sizes, one at a time: set DATA.BATCH_SIZE_EVAL 1 "
                f"(it is {batch_size_eval(config)}; -batch_size_eval=1)"
            )
        self.config = config
        self.model = build_upernet(config)
        self.protocol = build_protocol(config)
        self._confusion: np.ndarray | None = None

    def dataset(self, split: Literal["train", "val"]) -> SegmentationDataset:
        return build_segmentation_dataset(self.config, split, bad_images=bad_images_file(self.config, split))

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        labels = batch["label"]
        outputs = self.model(self._train_images(batch))
        losses = {name: segmentation_cross_entropy(logits, labels) for name, logits in outputs.items()}
        total = losses["logits"]
        if "auxiliary" in losses:
            total = total + self.config.TRAIN.AUXILIARY_WEIGHT * losses["auxiliary"]
        return {
            "loss": total,
            **{f"loss_{name}": loss.detach() for name, loss in losses.items() if len(losses) > 1},
            "accuracy": 100.0 * _pixel_accuracy(outputs["logits"].detach(), labels),
        }

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
        labels = batch["label"]
        images = [self._normalize(batch[f"image_{k}"]) for k in range(len(self.config.TEST.SCALES))]
        classes = segment(self.model, images, tuple(labels.shape[1:]), self.protocol)
        return {
            "count": paddle.to_tensor(labels.shape[0], dtype="int64"),
            "confusion": confusion_matrix(classes, labels, self.model.num_classes, IGNORE),
        }

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        classes = self.model.num_classes
        self._confusion = np.asarray(sums["confusion"]).reshape(classes, classes)
        return {**segmentation_metrics(self._confusion), "count": int(sums["count"])}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        return metrics["mIoU"]

    def write_report(self, folder: Path) -> dict[str, np.ndarray]:
        """Write `segmentation.json` and `segmentation.txt`, a table: IoU and recall of each class; and the colors,
        for pictures of predictions."""
        if self._confusion is None:
            return {}
        names, palette = class_names_and_palette(self.config)
        write_palette(folder / "palette.txt", palette)
        names = names or tuple(f"class {k}" for k in range(self.model.num_classes))
        summary, scores = segmentation_metrics(self._confusion), segmentation_scores(self._confusion)
        classes = {
            name: {
                key: None if np.isnan(values[k]) else round(float(values[k]), 4)
                for key, values in scores.items()
            }
            for k, name in enumerate(names)
        }
        content = {
            **{key: round(value, 4) for key, value in summary.items()},
            "protocol": {
                "mode": self.protocol.mode,
                "window": list(self.protocol.window),
                "stride": list(self.protocol.stride),
                "resize_limits": list(self.config.DATA.RESIZE_LIMITS),
                "scales": list(self.config.TEST.SCALES),
                "flip": self.protocol.flip,
            },
            "classes": classes,
        }
        (folder / "segmentation.json").write_text(
            json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (folder / "segmentation.txt").write_text(_table(summary, classes), encoding="utf-8")
        return {}

    def preview(self, batch: Batch) -> np.ndarray:
        """The first crops of the batch as the model sees them, their labels in colors below: uint8 `[2 H, n W, 3]`."""
        data = self.config.DATA
        mean, std = (
            paddle.to_tensor(value).reshape([1, 3, 1, 1]) for value in (data.IMAGENET_MEAN, data.IMAGENET_STD)
        )
        images = self._train_images({name: value[:4] for name, value in batch.items()})
        pixels = ((images * std + mean).clip(0.0, 1.0) * 255.0).round().astype("uint8")
        palette = np.zeros((IGNORE + 1, 3), np.uint8)
        palette[: self.model.num_classes] = class_names_and_palette(self.config)[1]
        rows = pixels.transpose([0, 2, 3, 1]).numpy(), palette[batch["label"][:4].numpy()]  # [n, H, W, 3]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])

    def _train_images(self, batch: Batch) -> Tensor:
        """Normalized crops; around the picture zero, as the official order of normalizing and padding has it."""
        images, boxes = self._normalize(batch["image"]), batch["box"]
        return images * box_mask(boxes, images.shape[2], images.shape[3]).astype(images.dtype)

    def _normalize(self, images: Tensor) -> Tensor:
        return normalize(images, self.config.DATA.IMAGENET_MEAN, self.config.DATA.IMAGENET_STD)


def _pixel_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of labeled pixels called right, at the size of the logits (labels taken at the nearest pixel)."""
    step = [side // size for side, size in zip(labels.shape[1:], logits.shape[2:], strict=True)]
    labels = labels[:, :: step[0], :: step[1]][:, : logits.shape[2], : logits.shape[3]].astype("int64")
    counts = (labels != IGNORE).astype("float32")
    right = (logits.argmax(axis=1) == labels).astype("float32") * counts
    return right.sum() / counts.sum().clip(min=1.0)


def _table(summary: Mapping[str, float], classes: Mapping[str, Mapping[str, float | None]]) -> str:
    """Aligned lines, one a class, and the means."""
    width = max(len(name) for name in classes)
    lines = [f"{'class':{width}}     IoU  recall       pixels"]
    for name, row in classes.items():
        iou, recall = ("      -" if row[key] is None else f"{row[key]:7.2f}" for key in ("iou", "recall"))
        lines.append(f"{name:{width}} {iou} {recall} {int(row['pixels'] or 0):12,}")
    means = "  ".join(f"{name} {value:.2f}" for name, value in summary.items())
    return "\n".join([*lines, "", means, ""])
