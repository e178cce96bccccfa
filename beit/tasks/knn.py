"""Nearest neighbors in the feature space of a frozen encoder: nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import paddle
from paddle import Tensor
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.beit import build_backbone
from beit.config import batch_size_eval
from beit.data.batch_transforms import normalize
from beit.data.dataset import ImageDataset, open_options
from beit.data.loader import Loader
from beit.data.sampler import Sample
from beit.data.splits import open_split
from beit.data.transforms import build_eval_transform
from beit.logging import progress
from beit.models.features import FeatureName
from beit.parallel import ranks
from beit.tasks.layer_table import LayerTable
from beit.tasks.probe import build_features, count_correct, describe_protocol, refuse_without_classes
from beit.tasks.task import Batch, Task

# B batch, K classes, M remembered training images, k neighbors, F channels


class Knn(Task):
    """Evaluate by weighted nearest neighbors, per layer and kind of feature; for `-eval`.

    The memory holds the normalized features of the training images under the evaluation transform: M x F numbers per
    feature (float16 on a GPU), on every rank; `PROBE.LAYERS`, `PROBE.KINDS` and `PROBE.KNN_IMAGES` keep it small.
    Results go to `knn.json`, `knn.txt` and `knn.png`.
    Source: DINO, arXiv 2104.14294, appendix F.1; dino/eval_knn.py.

    Raises:
        ValueError: it is asked to train, there are no classes, or a feature does not exist.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        refuse_without_classes(config)
        if not config.EVAL:
            raise ValueError("TASK: knn trains nothing: add -eval (and -pretrained FILE)")
        self.config = config
        self.model = build_backbone(config)
        self._features = build_features(config, self.model)
        self._memory: dict[FeatureName, Tensor] = {}
        self._labels: Tensor | None = None
        self._table: LayerTable | None = None

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset:
        return ImageDataset(
            open_split(self.config, split),
            build_eval_transform(self.config),
            open_options=open_options(self.config),
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        if self._labels is None:
            self._remember()
        assert self._labels is not None
        probe, votes = self.config.PROBE, []
        for name, feature in self._extract(batch["image"]).items():
            votes.append(
                neighbor_votes(
                    feature,
                    self._memory[name],
                    self._labels,
                    num_classes=self.config.MODEL.NUM_CLASSES,
                    neighbors=probe.NEIGHBORS,
                    temperature=probe.TEMPERATURE,
                )
            )
        return count_correct(votes, batch["label"])

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        probe = self.config.PROBE
        facts = describe_protocol(self.config) | {
            "neighbors": probe.NEIGHBORS,
            "temperature": probe.TEMPERATURE,
        }
        title = f"kNN of {self.config.MODEL.NAME}"
        self._table = LayerTable.from_sums(title, facts, list(self._features.widths), sums)
        return self._table.metrics()

    def write_report(self, folder: Path) -> dict[str, np.ndarray]:
        return self._table.write(folder, "knn") if self._table is not None else {}

    def _remember(self) -> None:
        dataset, data = self.dataset("train"), self.config.DATA
        count = min(len(dataset), self.config.PROBE.KNN_IMAGES or len(dataset))
        indices = np.linspace(0, len(dataset) - 1, count).astype(np.int64).tolist()
        size = batch_size_eval(self.config)
        batches = [
            [Sample(index, index) for index in indices[k : k + size]] for k in range(0, len(indices), size)
        ]
        dtype = "float32" if paddle.get_device() == "cpu" else "float16"
        parts: dict[FeatureName, list[Tensor]] = {}
        labels = []
        with Loader(dataset, num_workers=data.NUM_WORKERS, timeout=data.WORKER_TIMEOUT) as loader:
            for batch in progress(loader(batches), len(batches), "remember", rank=ranks.rank()):
                labels.append(batch["label"])
                for name, feature in self._extract(paddle.to_tensor(batch["image"])).items():
                    parts.setdefault(name, []).append(feature.astype(dtype))
        self._memory = {name: paddle.concat(values) for name, values in parts.items()}
        self._labels = paddle.to_tensor(np.concatenate(labels))

    def _extract(self, images: Tensor) -> dict[FeatureName, Tensor]:
        data = self.config.DATA
        features = self._features(normalize(images, data.IMAGENET_MEAN, data.IMAGENET_STD))
        return {name: F.normalize(feature, axis=-1) for name, feature in features.items()}


def neighbor_votes(
    features: Tensor,
    memory: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Votes `[B, K]`: each of the k most similar remembered images gives exp(cosine / temperature) to its class.

    Args:
        features: `[B, F]` of length 1.
        memory: `[M, F]` of length 1; with fewer than k images all vote.
        labels: of the memory, int64 `[M]`.
    """
    similarity = paddle.matmul(features.astype(memory.dtype), memory, transpose_y=True).astype("float32")
    nearest, index = similarity.topk(min(neighbors, memory.shape[0]), axis=-1)  # [B, k]
    classes = F.one_hot(labels[index], num_classes)  # [B, k, K]
    return ((nearest / temperature).exp().unsqueeze(-1) * classes).sum(1)
