"""mmpretrain's inferencers for classifiers: `ImageClassificationInferencer` and `FeatureExtractor`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image

from beit.beit import Beit
from beit.data.image_input import ImageInput
from beit.metadata.class_names import ClassNames
from beit.models.load import load_pretrained
from beit.models.published import get_model
from beit.predict.classifier import Classifier
from beit.predict.inference import load_predictor, require_classifier
from beit.predict.inputs import list_inputs
from beit.zoo import list_models
from beit.zoo.table import PUBLISHED

# D width, K classes

_STAGES = ("backbone", "neck", "pre_logits")


class _Inferencer:
    """Loads a classifier or encoder, and reads the images of a call in batches."""

    def __init__(
        self,
        model: str | Path | Beit,
        pretrained: bool | str | Path = True,
        classes: ClassNames | None = None,
    ) -> None:
        self._predictor = _load(model, pretrained, classes)

    @property
    def model(self) -> Beit:
        """The network."""
        return self._predictor.model

    def _batches(self, inputs: ImageInput | Sequence[ImageInput], size: int) -> Iterator[list[Image.Image]]:
        if size < 1:
            raise ValueError(f"batch_size={size}; expected 1 or more")
        images, _ = list_inputs(inputs)
        for start in range(0, len(images), size):
            yield [self._predictor.open(_to_rgb(image)) for image in images[start : start + size]]

    @staticmethod
    def list_models(pattern: str | None = None) -> list[str]:
        """Names of published classifiers; `pattern` as in `beit.list_models`."""
        return list_models(pattern, task="Image Classification")


class ImageClassificationInferencer(_Inferencer):
    """Classifies images; call it with them.

    Arrays have the channel order of OpenCV, BGR, as in mmpretrain; `beit.inference_model` takes RGB.
    Source: mmpretrain/apis/image_classification.py.

    Args:
        model: name from `list_models()`, config, output folder of a run, checkpoint, or `Beit`.
        pretrained: weights to load into it. True: the published ones, or those that the model has; False, for a name or
            a `Beit`: none are loaded.
        classes: names of the K classes that replace those stored with the weights.

    Raises:
        ValueError, FileNotFoundError: as `beit.load_predictor`, or there are no weights for a config.

    Examples:
        >>> inferencer = beit.ImageClassificationInferencer("output/run")
        >>> inferencer(["a.jpg", "b.jpg"], batch_size=2)[0]["pred_class"]
    """

    def __call__(
        self, inputs: ImageInput | Sequence[ImageInput], batch_size: int = 1
    ) -> list[dict[str, Any]]:
        """For each image `pred_scores` (float32 `[K]`), `pred_label`, `pred_score`, and `pred_class` if classes have names.

        Args:
            inputs: file, folder, pattern, Pillow image, array uint8 `[H, W, 3]` (BGR), or a list of these.
            batch_size: images at a time.

        Raises:
            ImageError, FileNotFoundError: an image cannot be read.
        """
        names = ["pred_scores", "pred_label", "pred_score"]
        if self._predictor.class_names:
            names.append("pred_class")
        return [
            {name: result[name] for name in names}
            for images in self._batches(inputs, batch_size)
            for result in self._predictor(images)
        ]


class FeatureExtractor(_Inferencer):
    """Features of images; call it with them. Constructor and arrays are those of `ImageClassificationInferencer`.

    Source: mmpretrain/apis/feature_extractor.py.

    Examples:
        >>> beit.FeatureExtractor("output/run")("photo.jpg")[0][0].shape
        [768]
    """

    def __call__(
        self, inputs: ImageInput | Sequence[ImageInput], batch_size: int = 1, stage: str = "neck"
    ) -> list[Any]:
        """For each image a tuple of one tensor `[D]`; the tensor with stage "pre_logits".

        Args:
            inputs: file, folder, pattern, Pillow image, array uint8 `[H, W, 3]` (BGR), or a list of these.
            batch_size: images at a time.
            stage: "backbone" or "neck", which are the same for BEiT, or "pre_logits".

        Raises:
            ValueError: there is no such stage.
            ImageError, FileNotFoundError: an image cannot be read.
        """
        if stage not in _STAGES:
            raise ValueError(f"stage={stage!r}; expected one of {', '.join(_STAGES)}")
        rows = [
            row
            for images in self._batches(inputs, batch_size)
            for row in paddle.to_tensor(self._predictor.features(images))
        ]
        return rows if stage == "pre_logits" else [(row,) for row in rows]


def _load(model: str | Path | Beit, pretrained: bool | str | Path, classes: ClassNames | None) -> Classifier:
    if isinstance(model, Beit):
        if not isinstance(pretrained, bool):
            load_pretrained(model, pretrained)
        predictor = load_predictor(model, class_names=classes)
    elif pretrained is True:
        predictor = load_predictor(model, class_names=classes)
    elif str(model) in PUBLISHED:
        predictor = load_predictor(get_model(str(model), pretrained), class_names=classes)
    elif pretrained is False:
        raise ValueError(f"{model} has no weights: pass pretrained=FILE")
    else:
        predictor = load_predictor(pretrained, config=model, class_names=classes)
    return require_classifier(predictor, "inferencers")


def _to_rgb(image: ImageInput) -> ImageInput:
    """An array with BGR or BGRA channels as RGB or RGBA; other inputs as they are."""
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] in (3, 4):
        return image[..., [2, 1, 0, *range(3, image.shape[-1])]]
    return image
