"""What every trained model offers for prediction, so that callers need not ask which kind of model it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import paddle
from paddle import nn
from PIL import Image

from beit.data.batch_transforms import normalize
from beit.data.image_input import ImageInput, open_input
from beit.data.image_mask import Color
from beit.data.images import MAX_PIXELS
from beit.preprocessing import Preprocessing

# B images


class Predictor(ABC):
    """A trained model with its preprocessing and class names. Open images with `open`, then call it with them.

    `model` is the network, in evaluation mode. `preprocessing` describes how images are resized, cropped and
    normalized. `class_names` are the names of the K classes, or None. `palette` has a color per class, or is empty.
    """

    task: ClassVar[str]
    """TASK of the config that trains such a model."""
    score_name: ClassVar[str] = "probability"
    """What the score of a class is."""

    model: nn.Layer
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None
    palette: tuple[Color, ...]
    threshold: float | None = None
    """Score from which on a class is predicted, where images have any number of labels; else None."""
    engine: str
    """What runs the network: "paddle", "auto" or another engine of `beit.deploy.engines`."""
    precision: str
    """Of the engine, one of `beit.deploy.engines.PRECISIONS`."""

    def __repr__(self) -> str:
        height, width = self.image_size
        classes = f"{self.num_classes} classes, " if self.num_classes else ""
        given = self.preprocessing
        return (
            f"{type(self).__name__}({height}x{width} pixels, {classes}mean {given.mean}, std {given.std}, "
            f"crop {given.crop_pct}, {given.interpolation})"
        )

    @abstractmethod
    def __call__(self, images: Sequence[Image.Image], topk: int = 5) -> list[dict[str, Any]]:
        """One result per image; its keys depend on the kind of model.

        Args:
            images: RGB.
            topk: number of classes listed, 1 or more.
        """

    @abstractmethod
    def summary(self, result: dict[str, Any], topk: int = 5) -> dict[str, Any]:
        """A result without its arrays, ready for JSON; models with classes list the best ones as `topk`.

        Args:
            result: of a call.
            topk: number of classes listed, 1 or more; each has `class`, `label` and `score`.
        """

    def draw(self, image: Image.Image, result: dict[str, Any]) -> dict[str, Image.Image]:
        """Images that show a result, by the ending of their file names; empty if there is nothing to draw.

        Args:
            image: the RGB image of the result.
            result: of a call.
        """
        return {}

    def explain(self, image: Image.Image, result: dict[str, Any], side: int) -> tuple[Image.Image, str]:
        """An image that shows what a result is based on, and its caption. Only for models with classes.

        Args:
            image: the RGB image of the result.
            result: of a call.
            side: longer side of the image that is drawn over, pixels.
        """
        raise NotImplementedError

    def open(self, image: ImageInput, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """An image in mode RGB, turned by its EXIF orientation unless `preprocessing.exif_orientation` is False.

        Args:
            image: see `beit.data.image_input.open_input`.
            max_pixels: width x height above which a file is refused before it is decoded.

        Raises:
            ImageError: the file cannot be read.
            ValueError: the array is not an image.
        """
        return open_input(image, exif_orientation=self.preprocessing.is_turned, max_pixels=max_pixels)

    @property
    def num_classes(self) -> int:
        """K; 0 for a model without classes."""
        return self.model.num_classes

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the encoder's input, pixels."""
        height, width = self.encoder.patch_embed.image_size
        return int(height), int(width)

    @property
    def encoder(self) -> nn.Layer:
        """The `Beit` of the model."""
        return self.model

    def normalize(self, images: np.ndarray) -> paddle.Tensor:
        """Normalized float32 `[B, 3, H, W]` of uint8 images of that shape."""
        mean, std = self.preprocessing.mean, self.preprocessing.std
        assert mean is not None and std is not None  # no predictor is built without
        return normalize(paddle.to_tensor(images), mean, std)


def finite(output: paddle.Tensor) -> np.ndarray:
    """An output of a model as a float32 array.

    Raises:
        ValueError: it holds a NaN or an infinity, though all weights are finite.
    """
    values = output.astype("float32").numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            "the output of the model is NaN or infinite: its weights are damaged, or of another model; take other weights"
        )
    return values


def fit_longer_side(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) scaled, aspect kept, so that the longer of the two is `side`; at least 1 pixel each."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def class_result(
    labels: Sequence[int],
    scores: Sequence[float],
    name: Callable[[int], str],
    *,
    topk: int,
    threshold: float | None,
) -> dict[str, Any]:
    """The result of a classifier for one image, without the scores of all classes.

    Args:
        labels: class numbers, the best first.
        scores: of these classes.
        name: of a class number.
        topk: number of classes in `topk`.
        threshold: as `Predictor.threshold`; with one, `labels` has the classes with at least this score.
    """

    def rows(count: int) -> list[dict[str, Any]]:
        ranked = zip(labels[:count], scores[:count], strict=True)
        return [{"class": name(label), "label": label, "score": score} for label, score in ranked]

    best = rows(topk)
    found = {} if threshold is None else {"labels": rows(sum(score >= threshold for score in scores))}
    return {
        "pred_label": best[0]["label"],
        "pred_score": best[0]["score"],
        "pred_class": best[0]["class"],
        **found,
        "topk": best,
    }


def new_threshold(own: float | None, threshold: float) -> float:
    """Check a threshold that replaces that of a classifier.

    Raises:
        ValueError: the classifier has none, or it is not a probability.
    """
    if own is None:
        raise ValueError(
            "a threshold is for models of TASK: multilabel; the scores of this one add up to 1: leave it out"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}; expected a probability from 0 to 1")
    return threshold
