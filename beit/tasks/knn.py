"""Nearest-neighbor classification with the features of a frozen encoder; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.beit import build_backbone
from beit.config import batch_size_eval
from beit.data.dataset import ClassificationDataset, ImageDataset, open_options
from beit.data.loader import build_loader
from beit.data.model_input import build_eval_transform
from beit.data.sampler import batches_of
from beit.data.splits import open_split
from beit.logging import progress
from beit.models.features import FeatureName
from beit.parallel import ranks
from beit.tasks.layer_table import LayerTable
from beit.tasks.probe import build_features, count_correct, describe_protocol
from beit.tasks.task import Batch, Sums, Task, require_classes

# B batch, K classes, M training images, k neighbors, F channels


class Knn(Task):
    """Evaluate with weighted nearest neighbors, for each layer and kind of feature; needs `-eval`.

    The normalized features of the training images under the evaluation transform are kept in memory on every rank:
    M x F numbers per feature (float16 on a GPU). `PROBE.LAYERS`, `PROBE.KINDS` and `PROBE.KNN_IMAGES` limit them.
    Results go to `knn.json`, `knn.txt` and `knn.png`.
    Source: DINO, arXiv 2104.14294, appendix F.1; dino/eval_knn.py.

    Raises:
        ValueError: the run is a training run, the config has no classes, or a feature does not exist.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        require_classes(config)
        if not config.EVAL:
            raise ValueError("TASK: knn trains nothing: add -eval (and -pretrained FILE)")
        self.config = config
        self.model = build_backbone(config)
        self._features = build_features(config, self.model)
        self._train_features: dict[FeatureName, Tensor] = {}
        self._train_labels: Tensor | None = None

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset:
        """Images with class labels, always with the evaluation transform."""
        return ClassificationDataset(
            open_split(self.config, split),
            build_eval_transform(self.config),
            open_options=open_options(self.config),
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """`count`, and `top1` and `top5` of each feature."""
        if self._train_labels is None:
            self._train_labels = self._store_training_images()
        probe, votes = self.config.PROBE, []
        for name, feature in self._extract(batch["image"]).items():
            votes.append(
                neighbor_votes(
                    feature,
                    self._train_features[name],
                    self._train_labels,
                    num_classes=self.config.MODEL.NUM_CLASSES,
                    neighbors=probe.NEIGHBORS,
                    temperature=probe.TEMPERATURE,
                )
            )
        return count_correct(votes, batch["label"])

    def metrics(self, sums: Sums) -> dict[str, float]:
        """The metrics of `LayerTable.metrics`."""
        return self._layer_table(sums).metrics()

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write `knn.json`, `knn.txt` and `knn.png`; the plot is also for the log."""
        return self._layer_table(sums).write(folder, "knn")

    def _layer_table(self, sums: Sums) -> LayerTable:
        probe = self.config.PROBE
        facts = {"neighbors": probe.NEIGHBORS, "temperature": probe.TEMPERATURE}
        return LayerTable.from_sums(
            f"kNN of {self.config.MODEL.NAME}",
            describe_protocol(self.config) | facts,
            list(self._features.widths),
            sums,
        )

    def _store_training_images(self) -> Tensor:
        """Compute the features of the training images; returns their labels, int64 `[M]`."""
        dataset = self.dataset("train")
        count = min(len(dataset), self.config.PROBE.KNN_IMAGES or len(dataset))
        indices = np.linspace(0, len(dataset) - 1, count).astype(np.int64).tolist()
        batches = list(batches_of(indices, batch_size_eval(self.config)))
        dtype = "float32" if paddle.get_device() == "cpu" else "float16"
        parts: dict[FeatureName, list[Tensor]] = {}
        labels = []
        with build_loader(self.config, dataset) as loader:
            for batch in progress(loader(batches), len(batches), "training features", rank=ranks.rank()):
                labels.append(batch["label"])
                for name, feature in self._extract(paddle.to_tensor(batch["image"])).items():
                    parts.setdefault(name, []).append(feature.astype(dtype))
        self._train_features = {name: paddle.concat(values) for name, values in parts.items()}
        return paddle.to_tensor(np.concatenate(labels))

    def _extract(self, images: Tensor) -> dict[FeatureName, Tensor]:
        features = self._features(self.normalize(images))
        return {name: F.normalize(feature, axis=-1) for name, feature in features.items()}


def neighbor_votes(
    features: Tensor,
    train_features: Tensor,
    train_labels: Tensor,
    *,
    num_classes: int,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Votes `[B, K]`: each of the k most similar training images adds exp(cosine / temperature) to its class.

    Args:
        features: `[B, F]`, vectors of length 1.
        train_features: `[M, F]`, vectors of length 1.
        train_labels: int64 `[M]`.
        num_classes: K.
        neighbors: k; if M is smaller, all training images vote.
        temperature: divides the cosines; a smaller one gives more weight to the nearest images.
    """
    similarity = paddle.matmul(features.astype(train_features.dtype), train_features, transpose_y=True)
    nearest, index = similarity.astype("float32").topk(min(neighbors, train_features.shape[0]), axis=-1)
    classes = F.one_hot(train_labels[index], num_classes)  # [B, k, K]
    return ((nearest / temperature).exp().unsqueeze(-1) * classes).sum(1)
