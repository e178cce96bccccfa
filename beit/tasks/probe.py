"""Linear probe: one linear classifier per layer and kind of feature, all trained at once on a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F
from yacs.config import CfgNode

from beit.beit import Beit, build_backbone
from beit.checkpoint.report import LoadReport
from beit.data.dataset import ImageDataset, bad_images_file, build_dataset
from beit.models.features import FeatureName, FrozenFeatures
from beit.models.load import load_pretrained
from beit.optim.groups import Group, parameter_groups
from beit.tasks.layer_table import LayerTable
from beit.tasks.metrics import topk_correct
from beit.tasks.task import Batch, Sums, Task, require_classes

# B batch, K classes, P probes, F channels

_SGD_MOMENTUM = 0.9  # unilm/beit/run_linear_eval.py
_EPSILON = 1e-6  # added to the variance


class BatchStandard(nn.Layer):
    """BatchNorm without scale and shift: each channel of `[B, F]` is normalized to mean 0 and deviation 1.

    Statistics are those of the batch in training, and running averages in evaluation. Paddle's own layer prints a
    warning in each step when it is built without scale and shift.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", paddle.zeros([width]))
        self.register_buffer("variance", paddle.ones([width]))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, F]` to `[B, F]`."""
        mean, variance = self.mean, self.variance
        if self.training:
            mean, variance = x.mean(0), x.var(0, unbiased=False)
            for running, current in ((self.mean, mean), (self.variance, variance)):
                paddle.assign(0.9 * running + 0.1 * current.detach(), output=running)
        return (x - mean) * (variance + _EPSILON).rsqrt()


class LinearProbes(nn.Layer):
    """One linear classifier per feature, named after it (`layer_09_class`); initially weight N(0, 0.01), bias 0.

    Source: unilm/beit/run_linear_eval.py, `LinearClassifier`; the normalization is that of MAE, arXiv 2111.06377,
    appendix A.1.

    Args:
        widths: number of channels of each feature.
        num_classes: K.
        batch_norm: normalize each channel over the batch first, without learned scale.
    """

    def __init__(
        self, widths: Mapping[FeatureName, int], num_classes: int, *, batch_norm: bool = False
    ) -> None:
        super().__init__()
        for name, width in widths.items():
            linear = nn.Linear(width, num_classes)
            nn.initializer.Normal(std=0.01)(linear.weight)
            nn.initializer.Constant(0.0)(linear.bias)
            self.add_sublayer(
                str(name),
                nn.Sequential(("norm", BatchStandard(width)), ("linear", linear)) if batch_norm else linear,
            )

    def forward(self, features: Mapping[FeatureName, Tensor]) -> dict[FeatureName, Tensor]:
        """Logits `[B, K]` of each feature `[B, F]`."""
        probes = dict(self.named_children())
        return {name: probes[str(name)](feature) for name, feature in features.items()}


class Probe(Task):
    """Train linear classifiers on a frozen encoder, whose weights come from `-pretrained` and are in no checkpoint.

    The loss is the sum over all classifiers. AdamW updates every parameter independently, so each classifier becomes
    what it would become if trained alone. Each evaluation writes the accuracy of every layer to `probe.json`,
    `probe.txt` and `probe.png`.
    Source: unilm/beit/run_linear_eval.py.

    Raises:
        ValueError: no classes, frozen layers or `-eval` are configured, or a feature does not exist.
    """

    def __init__(self, config: CfgNode) -> None:
        super().__init__()
        require_classes(config)
        if config.EVAL:
            raise ValueError(
                "TASK: probe evaluates while it trains and keeps its results in probe.json; -eval alone has nothing "
                "to evaluate. TASK: knn needs no training"
            )
        if config.TRAIN.FREEZE_LAYERS:
            raise ValueError("TRAIN.FREEZE_LAYERS: the encoder of a probe is frozen as a whole; set it to 0")
        self.config = config
        backbone = build_backbone(config)
        # Not in `load`, which a resumed run does not call: its checkpoint does not hold the encoder.
        self._loaded = None
        if config.MODEL.PRETRAINED:
            self._loaded = load_pretrained(backbone, config.MODEL.PRETRAINED, key=config.MODEL.PRETRAINED_KEY)
        self._features = build_features(config, backbone)
        self.model = LinearProbes(
            self._features.widths, config.MODEL.NUM_CLASSES, batch_norm=config.PROBE.BATCH_NORM
        )

    def load(self, path: str) -> LoadReport:
        """The report on the encoder's weights, which the constructor has loaded."""
        assert self._loaded is not None
        return self._loaded

    def dataset(self, split: Literal["train", "val"]) -> ImageDataset:
        """Images with class labels, as for fine-tuning."""
        bad_images = bad_images_file(self.config, split)
        return build_dataset(self.config, split, bad_images=bad_images, classes=self.classes)

    def forward(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """`loss`, the sum over all classifiers, and their mean `accuracy` in percent."""
        logits, labels = self.model(self._extract(batch)), batch["label"]
        with paddle.amp.auto_cast(enable=False):
            losses = [F.cross_entropy(value.astype("float32"), labels) for value in logits.values()]
        correct = paddle.stack([(value.argmax(-1) == labels).astype("float32") for value in logits.values()])
        return {"loss": paddle.add_n(losses), "accuracy": 100.0 * correct.mean().detach()}

    def param_groups(self) -> list[Group]:
        """With AdamW weight decay on every parameter, also on biases; with SGD on none; as in the official script."""
        is_sgd = self.config.PROBE.OPTIMIZER == "sgd"
        return parameter_groups(
            self.model.named_parameters(),
            lambda name: 1,
            num_layers=0,
            layer_decay=1.0,
            weight_decay=self.config.TRAIN.WEIGHT_DECAY,
            no_decay=lambda name, parameter: is_sgd,
        )

    def optimizer(self, groups: list[Group]) -> paddle.optimizer.Optimizer:
        """AdamW or SGD with momentum, as `PROBE.OPTIMIZER` selects."""
        if self.config.PROBE.OPTIMIZER == "adamw":
            return super().optimizer(groups)
        copies = [dict(group) for group in groups]  # Momentum changes the groups it is given
        return paddle.optimizer.Momentum(
            learning_rate=self.config.TRAIN.BASE_LR, momentum=_SGD_MOMENTUM, parameters=copies
        )

    def eval_step(self, batch: Batch) -> dict[str, Tensor]:
        """`count`, and `top1` and `top5` of each classifier."""
        logits = self.model(self._extract(batch))
        return count_correct(list(logits.values()), batch["label"])

    def metrics(self, sums: Sums) -> dict[str, float]:
        """The metrics of `LayerTable.metrics`."""
        return self._layer_table(sums).metrics()

    def selection_metric(self, metrics: Mapping[str, float]) -> float:
        """The top-1 accuracy of the best classifier."""
        return metrics["top1"]

    def write_report(self, folder: Path, sums: Sums, batch: Batch) -> dict[str, np.ndarray]:
        """Write `probe.json`, `probe.txt` and `probe.png`; the plot is also for the log."""
        return self._layer_table(sums).write(folder, "probe")

    def _layer_table(self, sums: Sums) -> LayerTable:
        title = f"linear probe of {self.config.MODEL.NAME}"
        return LayerTable.from_sums(title, describe_protocol(self.config), list(self._features.widths), sums)

    def _extract(self, batch: Batch) -> dict[FeatureName, Tensor]:
        return self._features(self.normalize(batch["image"]))


def build_features(config: CfgNode, backbone: Beit) -> FrozenFeatures:
    """The features that `PROBE.*` selects.

    Raises:
        ValueError: as `FrozenFeatures`.
    """
    probe = config.PROBE
    return FrozenFeatures(backbone, layers=probe.LAYERS, kinds=probe.KINDS, use_norm=probe.USE_NORM)


def count_correct(logits: list[Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Sums over a batch for P classifiers: `count`, and `top1` and `top5`, int64 `[P]`.

    Args:
        logits: `[B, K]` of each classifier.
        labels: `[B]`.
    """
    correct = [topk_correct(value, labels) for value in logits]
    sums = {key: paddle.stack([one[key] for one in correct]) for key in ("top1", "top5")}
    return {"count": paddle.to_tensor(len(labels)), **sums}


def describe_protocol(config: CfgNode) -> dict[str, Any]:
    """The settings that a result depends on, for its JSON file."""
    return {
        "weights": config.MODEL.PRETRAINED,
        "data": str(config.DATA.DATA_PATH),
        "image_size": config.DATA.IMAGE_SIZE,
        "use_norm": config.PROBE.USE_NORM,
        "batch_norm": config.PROBE.BATCH_NORM,
        "seed": config.SEED,
    }
