"""An exported model as a predictor: the same results as those of the model, without its attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import paddle
from PIL import Image

from beit.data.image_mask import Color
from beit.deploy.compiled import Log, log_to_stderr
from beit.deploy.description import FILE_NAME
from beit.deploy.network import probabilities
from beit.deploy.runner import Runner, load_runner
from beit.models.segmentation_heads import resize_bilinear
from beit.predict.predictor import Predictor, class_result, fit_longer_side, new_threshold
from beit.predict.segmentation import ClassMapPredictor
from beit.preprocessing import Preprocessing

_NOT_PREDICTED = {
    "features": "export it with --output topk",
    "codes": "beit.deploy.runner.load_runner returns its token ids",
}
"""Output that makes no prediction -> what to do instead."""

# B images; K classes, k of them listed; h, w size of an image


def is_export(source: object) -> bool:
    """Whether a path is a folder that `python -m beit export` wrote."""
    return isinstance(source, str | Path) and (Path(source) / FILE_NAME).is_file()


def exported_predictor(
    folder: str | Path, engine: str = "paddle", precision: str = "float32", log: Log = log_to_stderr
) -> Predictor:
    """The model in a folder that `python -m beit export` wrote.

    Args:
        folder: of the export.
        engine, precision: as in `load_runner`.
        log: called with one line that names the engine.

    Raises:
        ValueError: it was exported with an output that has no classes, or as `load_runner`.
        FileNotFoundError: as `load_runner`.
    """
    runner = load_runner(folder, engine, precision=precision)
    description = runner.description
    log(f"engine: {runner.name}, on the exported graph")
    if description.output in _NOT_PREDICTED:
        raise ValueError(
            f"{folder} was exported with the output {description.output} and has no classes; "
            f"{_NOT_PREDICTED[description.output]}"
        )
    if description.task == "segment":
        names = description.class_names or ()
        return ExportedSegmenter(runner, description.preprocessing, names, description.palette)
    return ExportedClassifier(
        runner, description.preprocessing, description.class_names, description.threshold
    )


class _Exported(Predictor):
    runner: Runner

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the graph's input, pixels."""
        return self.runner.description.image_size

    @property
    def num_classes(self) -> int:
        """K; with the output "topk" and without names only the number k of classes that the graph returns."""
        if self.class_names:
            return len(self.class_names)
        black = np.zeros((1, 3, *self.image_size), np.uint8)
        return int(self.runner(black)[self.runner.description.outputs[0]].shape[1])

    def view(self, image: Image.Image) -> np.ndarray:
        """An RGB image as the graph gets it, uint8 `[3, height, width]`."""
        return self.runner.description.prepare(image)

    def name(self, label: int) -> str:
        """The name of a class, or `class N` where the classes have no names."""
        return self.class_names[label] if self.class_names else f"class {label}"


@dataclass(frozen=True, repr=False)
class ExportedClassifier(_Exported):
    """An exported classifier with one of the outputs logits, probabilities, topk."""

    task: ClassVar[str] = "classify"
    palette = ()

    runner: Runner
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    threshold: float | None = None

    def __call__(self, images: Sequence[Image.Image], topk: int = 5) -> list[dict[str, Any]]:
        """As `Classifier`; exported with the output "topk" the results have no `pred_scores`, and at most k classes.

        Raises:
            ValueError: `topk` is not positive.
        """
        if topk < 1:
            raise ValueError(f"topk={topk}; expected 1 or more")
        results = self.runner(np.stack([self.view(image) for image in images]))
        if "classes" in results:
            ranked = zip(results["classes"].tolist(), results["scores"].tolist(), strict=True)
            return [self._result(labels, scores, topk) for labels, scores in ranked]
        scores = (
            results["probabilities"] if "probabilities" in results else self._probabilities(results["logits"])
        )
        best = np.argsort(-scores, axis=1, kind="stable")  # [B, K]
        rows = zip(best.tolist(), np.take_along_axis(scores, best, 1).tolist(), scores, strict=True)
        return [self._result(labels, values, topk) | {"pred_scores": row} for labels, values, row in rows]

    def summary(self, result: dict[str, Any], topk: int = 5) -> dict[str, Any]:
        """All but `pred_scores`. `topk` is that of the call."""
        return {name: value for name, value in result.items() if name != "pred_scores"}

    def explain(self, image: Image.Image, result: dict[str, Any], side: int) -> tuple[Image.Image, str]:
        """The model's input; a graph has no attention maps."""
        view = Image.fromarray(self.view(image).transpose(1, 2, 0))
        view = view.resize(fit_longer_side(view.size, side), Image.Resampling.BICUBIC)
        return view, "the input of the model (exported models have no attention maps)"

    def with_threshold(self, threshold: float) -> ExportedClassifier:
        """As `Classifier.with_threshold`."""
        return replace(self, threshold=new_threshold(self.threshold, threshold))

    def _probabilities(self, logits: np.ndarray) -> np.ndarray:
        independent = self.threshold is not None
        return probabilities(paddle.to_tensor(logits), independent=independent).numpy()

    def _result(self, labels: Sequence[int], scores: Sequence[float], topk: int) -> dict[str, Any]:
        return class_result(labels, scores, self.name, topk=topk, threshold=self.threshold)


@dataclass(frozen=True, repr=False)
class ExportedSegmenter(_Exported, ClassMapPredictor):
    """An exported segmentation model, which segments whole images at one size."""

    runner: Runner
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]

    def __call__(self, images: Sequence[Image.Image], topk: int = 5) -> list[dict[str, Any]]:
        """As `Segmenter`, with class maps that are enlarged from the size of the graph."""
        (values,) = self.runner(np.stack([self.view(image) for image in images])).values()
        return [self.result(_class_map(one, image.size)) for one, image in zip(values, images, strict=True)]


def _class_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of each pixel, uint8 `[h, w]`, from logits `[K, h, w]` or classes `[h, w]`; size: (width, height)."""
    if values.ndim == 3:
        logits = resize_bilinear(paddle.to_tensor(values[None]), (size[1], size[0]))
        return logits.argmax(axis=1)[0].numpy().astype(np.uint8)
    return np.asarray(Image.fromarray(values.astype(np.uint8)).resize(size, Image.Resampling.NEAREST))
