"""Predictions of two classifiers for the same images, side by side: those on which they differ come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beit.data.image_input import ImageInput
from beit.figures import Tile, draw_tiles, end_of
from beit.imagenet_classes import first_synonym, from_synsets
from beit.logging import progress
from beit.predict.classifier import Classifier
from beit.predict.inference import Model, inference_model, load_predictor, require_classifier
from beit.predict.inputs import list_inputs
from beit.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARISON_TITLES = (
    "image", "first_class", "first_score", "second_class", "second_score", "true_class",
)  # fmt: skip
"""Of the table of `write_comparison`."""
_SIDE = 160  # pixels of a drawn image, longer side
_IMAGES_IN_A_ROW = 2


@dataclass(frozen=True)
class ComparedImage:
    """One image: its results of both classifiers, as `inference_model` returns them, and its true class or None."""

    image: ImageInput
    results: tuple[dict[str, Any], dict[str, Any]]
    truth: str | None

    @property
    def classes(self) -> tuple[str, str]:
        """The predicted classes."""
        return self.results[0]["pred_class"], self.results[1]["pred_class"]

    @property
    def differs(self) -> bool:
        """Whether the two classes are different."""
        return self.classes[0] != self.classes[1]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two classifiers, what they are called, and the images: different predictions first, surest first."""

    predictors: tuple[Classifier, Classifier]
    names: tuple[str, str]
    images: tuple[ComparedImage, ...]

    @property
    def different(self) -> int:
        """Number of images with different classes."""
        return sum(image.differs for image in self.images)

    @property
    def top1(self) -> tuple[float, float] | None:
        """Accuracy of both in percent; None if the true classes are not known."""
        if any(image.truth is None for image in self.images):
            return None
        right = np.mean([[name == image.truth for name in image.classes] for image in self.images], axis=0)
        return float(100 * right[0]), float(100 * right[1])


def compare(
    first: Model,
    second: Model,
    images: ImageInput | Sequence[ImageInput],
    *,
    labeled: bool = False,
    batch_size: int = 16,
) -> Comparison:
    """Predict the same images with two classifiers, each with its own preprocessing.

    Of a classifier with several labels per image the most probable class is compared.

    Examples:
        >>> beit.compare("output/run", "output/other", "pictures").different

    Args:
        first, second: classifiers, as `load_predictor` takes them. Classes are the same where their names are.
        images: as `inference_model` takes them.
        labeled: the folder of each image is named after its true class, as in a tree of class folders.
        batch_size: images at a time.

    Raises:
        ValueError: one of the models has class names and the other has none, or the folder of an image is not named after a class.
        ImageError, FileNotFoundError: an image cannot be read.
    """
    predictors = [require_classifier(load_predictor(model), "comparisons") for model in (first, second)]
    if (predictors[0].class_names is None) != (predictors[1].class_names is None):
        raise ValueError(
            "one of the two models has no class names, so that its classes cannot be compared with those of the other: load "
            "it with beit.load_predictor(…, class_names=…), or put class_names.txt beside its weights"
        )
    inputs = list_inputs(images)[0]
    truths: Sequence[str | None] = (
        _classes_of_folders(inputs, predictors) if labeled else [None] * len(inputs)
    )
    chunks = [inputs[start : start + batch_size] for start in range(0, len(inputs), batch_size)]
    results: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for chunk in progress(chunks, len(chunks), "predict", rank=0):
        for predictor, own in zip(predictors, results, strict=True):
            own += inference_model(predictor, chunk, batch_size=batch_size)
    pairs = zip(*results, strict=True)
    found = [ComparedImage(*row) for row in zip(inputs, pairs, truths, strict=True)]
    found.sort(key=lambda image: (not image.differs, -min(result["pred_score"] for result in image.results)))
    names = [
        str(model) if isinstance(model, str | Path) else place
        for place, model in (("first", first), ("second", second))
    ]
    return Comparison((predictors[0], predictors[1]), (names[0], names[1]), tuple(found))


def draw_comparison(found: Comparison, count: int = 20) -> Figure:
    """Each image beside the attention and the predicted class of both classifiers, as a matplotlib figure.

    Where the true class is known it stands over the image, and wrong classes are red.

    Examples:
        >>> beit.draw_comparison(beit.compare("output/run", "output/other", "pictures")).savefig("comparison.png")

    Args:
        found: of `compare`.
        count: largest number of images.
    """
    tiles = []
    for compared in found.images[:count]:
        name = Path(compared.image).name if isinstance(compared.image, str | Path) else ""
        is_known = compared.truth is not None
        for number, (predictor, result) in enumerate(zip(found.predictors, compared.results, strict=True)):
            image = predictor.open(compared.image)
            drawn, _ = predictor.explain(image, result, _SIDE)
            if not number:
                view = predictor.view(image).resize(drawn.size)
                title = f"{end_of(name, 22)}\n" + (
                    f"is {first_synonym(compared.truth)}" if compared.truth else ""
                )
                tiles.append(Tile(np.asarray(view), title))
            title = (
                f"{'AB'[number]}: {first_synonym(result['pred_class'])}\n{100 * result['pred_score']:.0f} %"
            )
            tiles.append(Tile(np.asarray(drawn), title, is_known and result["pred_class"] != compared.truth))
    top1 = "" if found.top1 is None else "; top-1 {:.1f} and {:.1f} %".format(*found.top1)
    title = f"A: {found.names[0]}\nB: {found.names[1]}\n{len(found.images)} images, {found.different} different{top1}"
    return draw_tiles(tiles, columns=3 * _IMAGES_IN_A_ROW, title=title, side=1.8)


def write_comparison(found: Comparison, path: Path) -> Path:
    """Write all images of a comparison as CSV: image, class and score of both, true class; its path."""
    rows = []
    for compared in found.images:
        cells = [
            cell
            for result in compared.results
            for cell in (result["pred_class"], f"{result['pred_score']:.6f}")
        ]
        rows.append((compared.image, *cells, compared.truth or ""))
    return write_table(path, COMPARISON_TITLES, rows)


def _classes_of_folders(inputs: Sequence[ImageInput], predictors: Sequence[Classifier]) -> list[str]:
    known = {each.name(label) for each in predictors for label in range(each.num_classes)}
    names = []
    for image in inputs:
        path = Path(image) if isinstance(image, str | Path) else None
        (name,) = from_synsets([path.absolute().parent.name if path else ""])
        if name not in known:
            raise ValueError(
                f"{path or 'an image without a path'}: its folder is not named after a class of the models, but {name!r}; "
                "leave out labeled (--labeled)"
            )
        names.append(name)
    return names
