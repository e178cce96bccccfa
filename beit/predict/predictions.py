"""Predictions of a classifier on its validation images: a figure of them, the confusion matrix, a table of classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
import paddle.nn.functional as F

from beit.config import batch_size_eval
from beit.data.batch_transforms import to_device
from beit.data.dataset import ImageDataset
from beit.data.loader import build_loader
from beit.data.sampler import EvalSampler
from beit.figures import Tile, draw_tiles, make_figure
from beit.logging import progress
from beit.parallel import ranks
from beit.predict.resolve import ConfigSource, config_of
from beit.tasks.class_table import class_scores, write_class_table
from beit.tasks.classify import Classify
from beit.tasks.multilabel import MultiLabel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# B images, K classes

NO_MATRIX = (
    "images with several labels have no confusion matrix: `beit visualize predictions` shows wrong and missed classes, and "
    "`beit evaluate` writes classes.csv with images, precision and recall of each class"
)
_TASKS: dict[str, type[Classify]] = {"classify": Classify, "multilabel": MultiLabel}
_MAX_LINES = 6  # of the title of an image
_MAX_LABELED = 40  # classes; with more, the confusion matrix shows neither names nor numbers


@dataclass(frozen=True)
class Predictions:
    """Probabilities (`scores`, `[B, K]`) for the images of `dataset`, in its order, and the `names` of the K classes.

    `model` is the name of the model, for titles. With several labels for each image, the classes with a probability of at
    least `threshold` are predicted; with one label it is None.
    """

    model: str
    dataset: ImageDataset
    scores: np.ndarray
    names: tuple[str, ...]
    threshold: float | None = None

    @property
    def labels(self) -> np.ndarray:
        """True classes `[B]`; with several labels for each image bool `[B, K]`."""
        labels = self.dataset.images.labels
        assert labels is not None  # the data of `Classify` has labels
        return labels

    @property
    def confusion(self) -> np.ndarray:
        """Number of images by true class (row) and predicted class (column), `[K, K]`.

        Raises:
            ValueError: the images have several labels.
        """
        if self.threshold is not None:
            raise ValueError(NO_MATRIX)
        classes = self.scores.shape[1]
        pairs = self.labels * classes + self.scores.argmax(-1)
        return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def validation_predictions(config: ConfigSource, **options: Any) -> Predictions:
    """The predictions of a classifier for the validation images of its config.

    Examples:
        >>> beit.validation_predictions("output/run", data_path="digits").confusion

    Args:
        config: output folder of a run; or a config, its name or file, with the weights as MODEL.PRETRAINED.
        options: values that replace those of the config, as `beit.train` takes them.

    Raises:
        ValueError: no weights are named, or the task is not classification; or as `Task.load` and `KnownClasses.order`.
    """
    config = config_of(config, **options)
    if config.TASK not in _TASKS or not config.MODEL.PRETRAINED:
        raise ValueError("predictions need TASK: classify or multilabel, and weights: -pretrained FILE")
    if config.TEST.REAL_LABELS:
        raise ValueError("predictions are compared with one label for each image: leave out TEST.REAL_LABELS")
    paddle.set_device(ranks.choose_device(config.DEVICE))
    task = _TASKS[config.TASK](config)
    task.load(config.MODEL.PRETRAINED)
    task.eval()
    dataset = task.dataset("val")
    sampler = EvalSampler(len(dataset), batch_size=batch_size_eval(config))
    probabilities = []
    with paddle.no_grad(), build_loader(config, dataset) as loader:
        for batch in progress(loader(sampler), len(sampler), "predict", rank=0):
            logits = task.logits(to_device(batch))
            shares = F.sigmoid(logits) if task.independent_classes else F.softmax(logits, axis=-1)
            probabilities.append(shares.numpy())
    scores = np.concatenate(probabilities)
    names = task.val_names or tuple(str(label) for label in range(scores.shape[1]))
    threshold = config.TEST.THRESHOLD if task.independent_classes else None
    return Predictions(config.MODEL.NAME, dataset, scores, tuple(names), threshold)


def draw_predictions(found: Predictions, count: int = 40) -> Figure:
    """The wrong predictions first, then those with the lowest probability, as a matplotlib figure.

    The title of each image has the predicted class with its probability; if it is wrong, the title is red and also has
    the true class. With several labels for each image it has all predicted classes, and those that are wrong or missed;
    images with the most such classes come first.

    Examples:
        >>> beit.draw_predictions(beit.validation_predictions("output/run")).savefig("predictions.png")

    Args:
        found: of `validation_predictions`.
        count: largest number of images.
    """
    if found.threshold is not None:
        return _draw_label_sets(found, found.scores >= found.threshold, count)
    predicted, confidence = found.scores.argmax(-1), found.scores.max(-1)
    wrong = predicted != found.labels
    shown = np.lexsort((confidence, ~wrong))[:count]
    title = f"{found.model}: {len(wrong)} images, {wrong.sum()} wrong, top-1 {100 * (1 - wrong.mean()):.2f} %"
    tiles = [
        Tile(
            found.dataset.original(index),
            f"{found.names[predicted[index]]}: {100 * confidence[index]:.0f} %"
            + (f"\nis {found.names[found.labels[index]]}" if wrong[index] else ""),
            bool(wrong[index]),
        )
        for index in shown
    ]
    return draw_tiles(tiles, columns=8, title=title)


def _draw_label_sets(found: Predictions, predicted: np.ndarray, count: int) -> Figure:
    """`draw_predictions` for several labels of each image; `predicted` is bool `[B, K]`."""
    errors = (predicted != found.labels).sum(1)
    distance = np.abs(found.scores - found.threshold).min(1)  # to the closest decision
    title = f"{found.model}: {len(errors)} images, {(errors > 0).sum()} with wrong or missed classes"
    tiles = []
    for index in np.lexsort((distance, -errors))[:count]:
        chosen, true, scores = predicted[index], found.labels[index], found.scores[index]
        lines = [f"{found.names[k]}: {100 * scores[k]:.0f} %" for k in np.flatnonzero(chosen)] or ["no class"]
        for word, classes in (("wrong", chosen & ~true), ("missed", true & ~chosen)):
            lines += [f"{word}: {found.names[k]}" for k in np.flatnonzero(classes)]
        if len(lines) > _MAX_LINES:
            lines[_MAX_LINES - 1 :] = [f"and {len(lines) - _MAX_LINES + 1} more"]
        tiles.append(Tile(found.dataset.original(int(index)), "\n".join(lines), bool(errors[index])))
    return draw_tiles(tiles, columns=8, title=title)


CONFUSION_TITLES = ("label", "class", "images", "precision", "recall", "f1", "most_often_taken_for")
"""Columns of the table of `write_confusions`."""


def write_confusions(found: Predictions, path: Path) -> Path:
    """Write the scores of each class (`class_scores`) and the class that it is most often taken for as CSV; its path.

    Args:
        found: of `validation_predictions`.
        path: file to write.
    """
    confusion = found.confusion
    correct = np.diag(confusion)
    wrong = confusion - np.diag(correct)
    other = [found.names[int(row.argmax())] if row.any() else "" for row in wrong]
    scores = class_scores(confusion.sum(1), confusion.sum(0), correct)
    return write_class_table(path, found.names, scores | {"most_often_taken_for": other})


def draw_confusion(found: Predictions) -> Figure:
    """The confusion matrix as a matplotlib figure: shares of the true class (row); up to 40 classes are named.

    Examples:
        >>> beit.draw_confusion(beit.validation_predictions("output/run")).savefig("confusion.png")

    Args:
        found: of `validation_predictions`.
    """
    confusion, classes = found.confusion, len(found.names)
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = min(max(4.0, 0.35 * classes), 16.0)
    figure, axes = make_figure(1, 1, side + 1.5, side + 0.8)
    axis = axes[0, 0]
    shown = axis.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(shown, ax=axis, label="share of the true class")
    axis.set_xlabel("predicted class")
    axis.set_ylabel("true class")
    correct = int(np.diag(confusion).sum())
    axis.set_title(
        f"{found.model}\n{correct} of {confusion.sum()} correct ({100 * correct / confusion.sum():.2f} %)",
        fontsize=10,  # narrower than the matrix, beside which the color bar stands
    )
    if classes <= _MAX_LABELED:
        axis.set_xticks(range(classes), found.names, rotation=90, fontsize=8)
        axis.set_yticks(range(classes), found.names, fontsize=8)
        for row, column in np.argwhere(confusion):
            color = "white" if share[row, column] > 0.5 else "black"
            axis.text(column, row, confusion[row, column], ha="center", va="center", fontsize=7, color=color)
    return figure
