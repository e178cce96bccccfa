"""Classification of images that have any number of labels: fine-tuning and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor

from beit.data.dataset import ImageDataset
from beit.tasks.class_table import class_scores, write_class_table
from beit.tasks.classify import Classify
from beit.tasks.metrics import average_precision
from beit.tasks.task import Batch, Sums

# B batch, K classes, N validation images


class MultiLabel(Classify):
    """Train one binary classifier for each class with the binary cross entropy of `TRAIN.LOSS bce`.

    The scores are sigmoids, which do not add up to 1; a class is predicted from `TEST.THRESHOLD` on. Mixup and CutMix mix
    the labels as they mix the images.

    Raises:
        ValueError: as `Classify`.
    """

    independent_classes = True
    truth: np.ndarray
    """Labels of the validation images, bool `[N, K]`; `dataset` sets it."""

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset:
        """Images with labels bool `[K]`.

        Raises:
            ValueError: no validation image has a label; otherwise as `build_dataset`.
        """
        dataset = super().dataset(split)
        if split == "val":
            assert dataset.images.labels is not None  # `open_split` reads labeled images
            self.truth = dataset.images.labels
            if not self.truth.any():
                raise ValueError(
                    f"no validation image in {dataset.images.root} has a label, so there is no average precision"
                )
        return dataset

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """`loss`."""
        return self.logits_and_losses(batch, rng)[1]

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """`count`, `loss`, and `logits` `[N, K]`, which are 0 for the images of other batches.

        Average precision depends on the order of all images, so the sum over batches and ranks has the logits of all.
        """
        logits = self.logits(batch).astype("float32")
        targets = batch["label"].astype("float32")
        with paddle.amp.auto_cast(enable=False):
            losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        return {
            "count": paddle.to_tensor(len(logits), dtype="int64"),
            "loss": losses.mean(axis=-1).astype("float64").sum(),
            "logits": paddle.scatter(paddle.zeros(self.truth.shape), batch["index"], logits),
        }

    def metrics(self, sums: Sums) -> dict[str, float]:
        """`mAP`, `macro_f1` and `micro_f1` in percent, `loss` (mean over the classes) and `count`.

        Means over classes leave out those for which a score is not defined.
        """
        images, predicted, correct = self._class_counts(sums)
        return {
            "mAP": float(np.nanmean(average_precision(self._logits(sums), self.truth))),
            "macro_f1": float(np.nanmean(class_scores(images, predicted, correct)["f1"])),
            "micro_f1": float(200 * correct.sum() / (images.sum() + predicted.sum())),
            "loss": float(sums["loss"]) / int(sums["count"]),
            "count": int(sums["count"]),
        }

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The mean average precision."""
        return metrics["mAP"]

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write the scores of each class as `classes.csv`."""
        names = self.val_names or tuple(map(str, range(self.truth.shape[1])))
        scores = class_scores(*self._class_counts(sums))
        precision = {"average_precision": average_precision(self._logits(sums), self.truth)}
        write_class_table(folder / "classes.csv", names, scores | precision)
        return {}

    def _logits(self, sums: Sums) -> np.ndarray:
        return np.reshape(sums["logits"], self.truth.shape)

    def _class_counts(self, sums: Sums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images that have a class, for which it is predicted, and both, each `[K]`."""
        probabilities = 0.5 + 0.5 * np.tanh(0.5 * self._logits(sums))
        predicted = probabilities >= self.config.TEST.THRESHOLD
        return self.truth.sum(0), predicted.sum(0), (predicted & self.truth).sum(0)
