"""transformers' `pipeline("image-classification", model=…)`: images to the names of their classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle.nn import functional as F

from beit.data.image_input import ImageInput, open_input
from beit.metadata.processor_config import FILE
from beit.predict.inputs import list_inputs
from beit.transformers.classification import BeitForImageClassification
from beit.transformers.image_processor import BeitImageProcessor

TASK = "image-classification"
_FUNCTIONS = {"softmax": F.softmax, "sigmoid": F.sigmoid, "none": lambda logits: logits}


class ImageClassificationPipeline:
    """A classifier with its image processor; call it with images.

    Source: transformers, pipelines/image_classification.py.

    Args:
        model: the classifier, in evaluation mode.
        image_processor: makes its `pixel_values`.
        top_k, function_to_apply: defaults of the call.
    """

    def __init__(
        self,
        model: BeitForImageClassification,
        image_processor: BeitImageProcessor,
        *,
        top_k: int | None = 5,
        function_to_apply: str | None = None,
    ) -> None:
        self.model = model
        self.image_processor = image_processor
        self._top_k = top_k
        self._function = function_to_apply

    def __call__(
        self,
        inputs: ImageInput | Sequence[ImageInput],
        *,
        top_k: int | None = None,
        function_to_apply: str | None = None,
    ) -> list[Any]:
        """For one image a list of `{"label": name, "score": number}`, the best first; for a list a list of these.

        Args:
            inputs: an image or a list of them: all that `open_input` takes; a folder or a pattern
                stands for its images. Files are turned by their EXIF orientation.
            top_k: number of classes; None for that of the pipeline (5).
            function_to_apply: "softmax", "sigmoid" or "none"; None for what goes with the model: nothing for a
                regression, sigmoid for several classes at once or a single one, else softmax.

        Raises:
            ValueError: another function, or `top_k` is not positive.
            FileNotFoundError, ImageError: an image cannot be read.
        """
        count = self._top_k if top_k is None else top_k
        if count is not None and count < 1:
            raise ValueError(f"top_k = {count}; expected 1 or more, or None")
        name = function_to_apply or self._function or self._usual_function()
        if name not in _FUNCTIONS:
            raise ValueError(f"function_to_apply = {name!r}; known: {', '.join(_FUNCTIONS)}")
        if isinstance(inputs, str) and inputs.startswith(("http://", "https://")):
            raise ValueError(f"{inputs}: images are not downloaded here; save it to a file and pass its path")
        images, is_single = list_inputs(inputs)
        results = [self._classify(image, count, name) for image in images]
        return results[0] if is_single else results

    def _usual_function(self) -> str:
        config = self.model.config
        if config.problem_type == "regression":
            return "none"
        is_single = config.problem_type == "multi_label_classification" or config.num_labels == 1
        return "sigmoid" if is_single else "softmax"

    def _classify(self, image: ImageInput, count: int | None, function: str) -> list[dict[str, Any]]:
        pixels = self.image_processor(open_input(image, exif_orientation=True), return_tensors="pd")
        with paddle.no_grad():
            scores = _FUNCTIONS[function](self.model(**pixels).logits)[0].numpy()
        best = np.argsort(-scores, kind="stable")[:count]
        return [{"label": self.model.config.id2label[int(k)], "score": float(scores[k])} for k in best]


def pipeline(
    task: str | None = None,
    model: str | Path | BeitForImageClassification | None = None,
    *,
    image_processor: str | Path | BeitImageProcessor | None = None,
    top_k: int | None = 5,
    function_to_apply: str | None = None,
) -> ImageClassificationPipeline:
    """An image classification pipeline, as transformers' function of this name builds it.

    Args:
        task: "image-classification", or None for that.
        model: folder, file or published name (`BeitForImageClassification.from_pretrained`), or a model.
        image_processor: the same for the processor; None for that of `model`, or beside it.
        top_k, function_to_apply: as in the call of the pipeline.

    Raises:
        ValueError: another task, no model, or a model in memory without its processor.
        FileNotFoundError: there is no such model, or no processor in its folder.

    Examples:
        >>> classifier = pipeline("image-classification", model="microsoft/beit-base-patch16-224")
        >>> classifier("photo.jpg")
        [{'label': 'tabby, tabby cat', 'score': 0.71}, …]
    """
    if task not in (None, TASK):
        raise ValueError(f"task = {task!r}; the only pipeline here is {TASK!r}")
    if model is None:
        raise ValueError("no model: pass a folder, a file, a name of beit.list_models() or a model")
    if image_processor is None:
        if isinstance(model, BeitForImageClassification):
            raise ValueError("a model in memory needs its processor: pass image_processor=")
        image_processor = _processor_place(model)
    if not isinstance(image_processor, BeitImageProcessor):
        image_processor = BeitImageProcessor.from_pretrained(image_processor)
    if not isinstance(model, BeitForImageClassification):
        model = BeitForImageClassification.from_pretrained(model)
    return ImageClassificationPipeline(
        model, image_processor, top_k=top_k, function_to_apply=function_to_apply
    )


def _processor_place(model: str | Path) -> str | Path:
    """Where the processor of a model is: in the folder of its weights, or the published name."""
    path = Path(model)
    if not path.exists():
        return model
    folder = path.parent if path.is_file() else path
    if not (folder / FILE).is_file():
        raise FileNotFoundError(
            f"{folder / FILE} does not exist: pass image_processor=, which can be a BeitImageProcessor, a folder that has "
            "one, or a published name"
        )
    return folder
