"""Image classification: fine-tuning and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import paddle
from paddle import Tensor
from yacs.config import CfgNode

from beit.beit import build_beit
from beit.cpu import split_batch
from beit.data.batch_transforms import erase
from beit.data.dataset import ImageDataset, bad_images_file, build_dataset
from beit.data.mixup import build_mixup, soft_targets
from beit.data.real_labels import with_real_labels
from beit.layers.lora import add_lora
from beit.models.views import view_logits
from beit.tasks.class_table import class_scores, write_class_table
from beit.tasks.distill import Teacher
from beit.tasks.losses import (
    binary_cross_entropy,
    distillation,
    label_smoothing_cross_entropy,
    soft_target_cross_entropy,
)
from beit.tasks.metrics import (
    calibration_error,
    calibration_sums,
    class_sums,
    classification_metrics,
    classification_sums,
    label_set_metrics,
    label_set_sums,
)
from beit.tasks.previews import denormalize, tile
from beit.tasks.task import PREVIEW_IMAGES, Batch, Sums, Task, require_classes
from beit.zoo import path_of


class Classify(Task):
    """Train a classifier with the fine-tuning recipe of BEiT.

    Source: unilm/beit/run_class_finetuning.py and engine_for_finetuning.py.

    Raises:
        ValueError: the config has no classes, or the model cannot be built.
    """

    uses_engine = True
    independent_classes: ClassVar[bool] = False
    """Whether scores are sigmoids of the logits, not their softmax."""
    outputs: tuple[int, ...] | None = None
    """Outputs that take part in the evaluation, in the order of the labels; None for all."""
    val_names: tuple[str, ...] | None = None
    """Class names of the validation images, in the order of the labels; None if neither data nor weights have names."""

    teacher: Teacher | None = None
    """The classifier whose predictions are learned beside the labels (TRAIN.DISTILL); not a sublayer, so not saved."""

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        require_classes(config)
        self.config = config
        self.model = build_beit(config)
        self.mixup = build_mixup(config)

    @property
    def has_label_sets(self) -> bool:
        """Whether images have a set of labels, each of which counts as correct (`TEST.REAL_LABELS`)."""
        return self.config.TEST.REAL_LABELS is not None and not self.independent_classes

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset:
        """Images with class labels: augmented for "train", `TEST.CROPS` crops of each for "val"."""
        bad_images, crops = bad_images_file(self.config, split), self.config.TEST.CROPS
        test = self.config.TEST
        is_subset = split == "val" and (test.CLASS_SUBSET or self.config.DATA.DATASET == "test_folder")
        classes = None if is_subset else self.classes
        dataset = build_dataset(self.config, split, bad_images=bad_images, classes=classes, crops=crops)
        if split == "val" and self.has_label_sets:
            images = with_real_labels(dataset.images, Path(test.REAL_LABELS), self.config.MODEL.NUM_CLASSES)
            dataset.images = images if self.classes is None else self.classes.relabel(images)
        names = dataset.images.class_names
        if is_subset and (test.CLASS_SUBSET or names is not None):  # folders called by numbers have no names
            if self.classes is None or names is None:
                raise ValueError(
                    "TEST.CLASS_SUBSET True and -dataset=test_folder need class names of the weights and of the data: class "
                    "folders, or data files that name their classes, and DATA.MATCH_CLASS_NAMES True"
                )
            self.outputs = self.classes.outputs(names)
        if split == "val":
            known = None if self.classes is None else self.classes.spelled_out
            self.val_names = dataset.images.class_names or known
        return dataset

    def freeze(self) -> None:
        """As `Task.freeze`; with `MODEL.LORA` train low-rank factors of the frozen encoder.

        Raises:
            ValueError: no weights to adapt are named, or as `add_lora`.
            FileNotFoundError: they do not exist.
        """
        super().freeze()
        model, lora = self.config.MODEL, self.config.MODEL.LORA
        if not lora.RANK:
            return
        if not model.PRETRAINED:
            raise ValueError(
                f"MODEL.LORA.RANK = {lora.RANK} adapts given weights: name them with -pretrained, also with -resume"
            )
        path_of(model.PRETRAINED)  # -resume does not read it before the first adapter is written
        add_lora(self.model, rank=lora.RANK, alpha=lora.ALPHA, targets=lora.TARGETS, blocks=lora.BLOCKS)

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """`loss`, and the `accuracy` of the batch in percent; with a teacher also the two parts of the loss."""
        logits, losses = self.logits_and_losses(batch, rng)
        # A mixed image counts as correct if the model predicts its own label, not that of the image mixed in.
        correct = (logits.argmax(-1) == batch["label"]).astype("float32").mean()
        return losses | {"accuracy": 100.0 * correct.detach()}

    def logits_and_losses(self, batch: Batch, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits `[B, K]` and the losses of a training batch, after erasing and mixing."""
        images, labels = self.normalize(batch["image"]), batch["label"]
        images = erase(images, batch["erase"], self.config.TRAIN.RANDOM_ERASE_MODE)
        targets = None
        if self.mixup is not None:
            images, targets = self.mixup(images, labels, rng)
        logits = self.model(images)
        loss = self._loss(logits, labels, targets)
        if self.teacher is None:
            return logits, {"loss": loss}
        distill = self.config.TRAIN.DISTILL
        taught = distillation(logits, self.teacher.logits(images), distill.KIND, distill.TEMPERATURE)
        return logits, {
            "loss": (1.0 - distill.WEIGHT) * loss + distill.WEIGHT * taught,
            "loss_labels": loss.detach(),
            "loss_teacher": taught.detach(),
        }

    def _loss(self, logits: Tensor, labels: Tensor, targets: Tensor | None) -> Tensor:
        """The loss that `TRAIN.LOSS` names, for the targets of mixup or for smoothed labels."""
        train = self.config.TRAIN
        if train.LOSS == "bce":
            if targets is None:
                targets = soft_targets(labels, self.config.MODEL.NUM_CLASSES, train.SMOOTHING)
            return binary_cross_entropy(
                logits, targets, threshold=train.BCE_THRESHOLD, sum_classes=train.BCE_SUM
            )
        if targets is None:
            return label_smoothing_cross_entropy(logits, labels, train.SMOOTHING)
        return soft_target_cross_entropy(logits, targets)

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """The sums of `classification_sums`, `calibration_sums` and `class_sums`; for ReaL labels `label_set_sums`."""
        logits, labels = self.logits(batch), batch["label"]
        if self.has_label_sets:
            return label_set_sums(logits, labels)
        return (
            classification_sums(logits, labels)
            | calibration_sums(logits, labels)
            | class_sums(logits, labels)
        )

    def logits(self, batch: Batch) -> Tensor:
        """Logits `[B, K]` of an evaluation batch, averaged over the views of `TEST.CROPS` and `TEST.FLIP`."""
        compute = self.model if self.engine is None else self.engine

        def over_views(images: Tensor) -> Tensor:
            return view_logits(
                lambda view: self._chosen(compute(view)),
                self.normalize(images),
                flip=self.config.TEST.FLIP,
                independent=self.independent_classes,
            )

        if self.engine is not None:  # it uses all cores by itself
            return over_views(batch["image"])
        return split_batch(over_views, batch["image"])

    def _chosen(self, logits: Tensor) -> Tensor:
        if self.outputs is None:
            return logits
        return paddle.index_select(logits, paddle.to_tensor(self.outputs), axis=1)

    def metrics(self, sums: Sums) -> dict[str, float]:
        """`top1` and `top5` in percent, `loss`, `count`, and the calibration error `ece` in percent; for ReaL labels `top1`."""
        if self.has_label_sets:
            return label_set_metrics(sums)
        return classification_metrics(sums) | {"ece": calibration_error(sums)}

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The top-1 accuracy."""
        return metrics["top1"]

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write the scores of each class as `classes.csv`; nothing for ReaL labels."""
        if self.has_label_sets:
            return {}
        images, predicted, correct = (
            np.reshape(sums[name], -1) for name in ("class_images", "class_predicted", "class_correct")
        )
        names = self.val_names or tuple(map(str, range(len(images))))
        write_class_table(folder / "classes.csv", names, class_scores(images, predicted, correct))
        return {}

    def preview(self, batch: Batch) -> np.ndarray:
        """The first images of the batch after all augmentations except mixup and cutmix, four per row."""
        data, train = self.config.DATA, self.config.TRAIN
        images = self.normalize(batch["image"][:PREVIEW_IMAGES])
        images = erase(images, batch["erase"][:PREVIEW_IMAGES], train.RANDOM_ERASE_MODE)
        return tile(denormalize(images, data.IMAGENET_MEAN, data.IMAGENET_STD))
