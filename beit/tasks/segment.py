"""Semantic segmentation with UPerNet: training and evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import numpy as np
import paddle
from paddle import Tensor
from yacs.config import CfgNode

from beit.config import batch_size_eval
from beit.data.batch_transforms import box_mask
from beit.data.class_matching import reordered
from beit.data.dataset import bad_images_file
from beit.data.image_mask import IGNORE, Color, class_names_and_palette, write_palette
from beit.data.segmentation import SegmentationDataset, build_segmentation_dataset
from beit.files import write_text
from beit.logging import format_table
from beit.models.segmentation_inference import build_protocol, segment
from beit.models.upernet import UperNet, build_upernet
from beit.tasks.losses import segmentation_cross_entropy
from beit.tasks.metrics import confusion_matrix, segmentation_metrics, segmentation_scores
from beit.tasks.previews import denormalize
from beit.tasks.task import Batch, Sums, Task

# B batch, K classes, H, W pixels

_PREVIEW_IMAGES = 4

ClassScores = Mapping[str, Mapping[str, float | None]]
"""Class name -> `iou`, `recall` (percent) and `pixels`; None where a class has no such score."""


class Segment(Task):
    """UPerNet with the recipe of BEiT's ADE20K models.

    Source: unilm/beit/semantic_segmentation. Deviation: `cls_token` has no weight decay, as the official code
    intends; that code compares the name without its prefix, so there it decays.

    Raises:
        ValueError: the model or the protocol cannot be built, or evaluation batches have more than one image.
    """

    uses_engine = True

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        if batch_size_eval(config) != 1:
            raise ValueError(
                "images are evaluated at their own sizes, one at a time: set DATA.BATCH_SIZE_EVAL 1 "
                f"(it is {batch_size_eval(config)}; -batch_size_eval=1)"
            )
        self.config = config
        self.model = build_upernet(config)
        self.protocol = build_protocol(config)

    @property
    def palette(self) -> tuple[Color, ...]:
        """Colors of the classes in the order of the head."""
        return self._names_and_palette()[1]

    def dataset(self, split: Literal["train", "val"]) -> SegmentationDataset:
        """Images with label maps: random crops for "train", whole images at each test scale for "val"."""
        bad_images = bad_images_file(self.config, split)
        return build_segmentation_dataset(self.config, split, bad_images=bad_images, classes=self.classes)

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """`loss`, the losses of both heads if there are two, and the pixel `accuracy` in percent."""
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

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """`count` (images) and the `confusion` matrix `[K, K]`."""
        labels = batch["label"]
        images = [self.normalize(batch[f"image_{k}"]) for k in range(len(self.config.TEST.SCALES))]
        network = cast(UperNet, self.engine or self.model)  # an engine has the model's attributes too
        classes = segment(network, images, tuple(labels.shape[1:]), self.protocol)
        return {
            "count": paddle.to_tensor(labels.shape[0], dtype="int64"),
            "confusion": confusion_matrix(classes, labels, self.model.num_classes, IGNORE),
        }

    def metrics(self, sums: Sums) -> dict[str, float]:
        """`mIoU`, `mAcc` and `aAcc` in percent, and `count`."""
        return {**segmentation_metrics(self._confusion(sums)), "count": int(sums["count"])}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The mIoU."""
        return metrics["mIoU"]

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write IoU and recall of each class (`segmentation.json`, `segmentation.txt`), and the classes' colors."""
        confusion = self._confusion(sums)
        names, palette = self._names_and_palette()
        write_palette(folder / "palette.txt", palette)  # for the images that `beit predict` draws
        names = names or tuple(f"class {k}" for k in range(self.model.num_classes))
        summary, scores = segmentation_metrics(confusion), segmentation_scores(confusion)
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
        write_text(folder / "segmentation.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        write_text(folder / "segmentation.txt", _describe_classes(summary, classes))
        return {}

    def preview(self, batch: Batch) -> np.ndarray:
        """The first crops of the batch as the model sees them, and their labels in colors below: `[2 H, n W, 3]`."""
        data = self.config.DATA
        crops = self._train_images({name: value[:_PREVIEW_IMAGES] for name, value in batch.items()})
        images = denormalize(crops, data.IMAGENET_MEAN, data.IMAGENET_STD)  # [n, H, W, 3]
        palette = np.zeros((IGNORE + 1, 3), np.uint8)
        palette[: self.model.num_classes] = self.palette
        labels = palette[batch["label"][:_PREVIEW_IMAGES].numpy()]  # [n, H, W, 3]
        return np.concatenate([np.concatenate(list(row), axis=1) for row in (images, labels)])

    def _names_and_palette(self) -> tuple[tuple[str, ...] | None, tuple[Color, ...]]:
        """Names and colors of the data in the order of the head; for data without names those of the weights."""
        names, palette = class_names_and_palette(self.config)
        if self.classes is None:
            return names, palette
        if names is None:
            return self.classes.spelled_out, palette
        order = self.classes.order(names)
        if order is None:
            return names, palette
        return reordered(names, order), reordered(palette, order)

    def _confusion(self, sums: Sums) -> np.ndarray:
        """The confusion matrix `[K, K]`; sums of a single class arrive as a number."""
        return np.asarray(sums["confusion"]).reshape(self.model.num_classes, self.model.num_classes)

    def _train_images(self, batch: Batch) -> Tensor:
        """Normalized crops; the padding around an image is 0 after normalization, as in the official pipeline."""
        images, boxes = self.normalize(batch["image"]), batch["box"]
        return images * box_mask(boxes, images.shape[2], images.shape[3]).astype(images.dtype)


def _pixel_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of labeled pixels classified correctly, at the size of the logits (labels are subsampled)."""
    step = [side // size for side, size in zip(labels.shape[1:], logits.shape[2:], strict=True)]
    labels = labels[:, :: step[0], :: step[1]][:, : logits.shape[2], : logits.shape[3]].astype("int64")
    counts = (labels != IGNORE).astype("float32")
    correct = (logits.argmax(axis=1) == labels).astype("float32") * counts
    return correct.sum() / counts.sum().clip(min=1.0)


def _describe_classes(summary: Mapping[str, float], classes: ClassScores) -> str:
    """A table with one row per class, and the means below it."""
    rows = [("class", "IoU", "recall", "pixels")]
    for name, row in classes.items():
        iou, recall = ("-" if row[key] is None else f"{row[key]:.2f}" for key in ("iou", "recall"))
        rows.append((name, iou, recall, f"{int(row['pixels'] or 0):,}"))
    means = "  ".join(f"{name} {value:.2f}" for name, value in summary.items())
    return f"{format_table(rows, left=1)}\n\n{means}\n"
