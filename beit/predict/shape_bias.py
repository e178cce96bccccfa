"""Shape bias: does a classifier decide by the shape or by the texture of images in which the two are in conflict?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from beit.figures import make_figure
from beit.imagenet_classes import class_names
from beit.predict.inference import Model, inference_model, load_predictor, require_classifier
from beit.predict.inputs import list_inputs
from beit.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# M decisions: shape, texture, neither

_CLASSES = {
    "airplane": "404",
    "bear": "294-297",
    "bicycle": "444 671",
    "bird": "8 10-16 18-20 22-24 80-83 87-96 98-100 127-133 135-145",
    "boat": "472 554 625 814 914",
    "bottle": "440 720 737 898-899 901 907",
    "car": "436 511 817",
    "cat": "281-286",
    "chair": "423 559 765 857",
    "clock": "409 530 892",
    "dog": "152-191 193-203 205-226 228-241 243-250 252-257 259 261-263 265-268",
    "elephant": "385-386",
    "keyboard": "508 878",
    "knife": "499",
    "oven": "766",
    "truck": "555 569 656 675 717 734 864 867",
}
"""Category -> its classes of ImageNet-1k, first and last number. Source: Geirhos et al. 2019, arXiv 1811.12231; their
human_categories.py."""
CATEGORIES = {
    name: [
        label
        for part in ranges.split()
        for label in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
    ]
    for name, ranges in _CLASSES.items()
}
"""Category -> its classes of ImageNet-1k, 207 in all."""
_STIMULUS = re.compile(r"([a-z]+)\d*-([a-z]+)\d*")
_DECISIONS = ("shape", "texture", "neither")
SHAPE_BIAS_TITLES = ("shape_category", *_DECISIONS, "shape_bias")
"""Of the table of `write_shape_bias`."""


@dataclass(frozen=True, eq=False)
class ShapeBias:
    """Decisions of a classifier by the category of the shape: int `[16, M]`, in the order of `CATEGORIES`."""

    decisions: np.ndarray

    @property
    def percent(self) -> float:
        """Shape bias: the share of shape among the decisions for shape or texture; NaN if there is none."""
        return _share(self.decisions.sum(0))


def shape_bias(model: Model, images: str | Path | Sequence[str | Path], *, batch_size: int = 16) -> ShapeBias:
    """The shape bias of a classifier on cue conflict images.

    The probabilities of the ImageNet classes of each of 16 categories are averaged, and the largest mean decides. Images
    whose shape and texture are of one category are left out.
    Source: Geirhos et al. 2019, arXiv 1811.12231; github.com/rgeirhos/texture-vs-shape, stimuli/style-transfer-preprocessed-512.

    Examples:
        >>> beit.shape_bias("beit_base_patch16_224", "cue-conflict").percent

    Args:
        model: a classifier of ImageNet-1k, as `load_predictor` takes it.
        images: files, folders or patterns; a file is named after shape and texture, `cat1-elephant3.png`.
        batch_size: images at a time.

    Raises:
        ValueError: the classes are not known to be those of ImageNet-1k, or a file has another name.
        ImageError, FileNotFoundError: an image cannot be read.
    """
    predictor = require_classifier(load_predictor(model), "decisions for shape or texture")
    if predictor.class_names != class_names("imagenet-1k"):
        raise ValueError(
            "shape bias needs a classifier whose classes are named as those of ImageNet-1k; if they are these 1,000 classes "
            'in the published order, pass class_names="imagenet-1k" (--class-names imagenet-1k)'
        )
    names = list(CATEGORIES)
    files = [str(file) for file in list_inputs(images)[0]]
    cues = {file: cue for file in files if (cue := _cues(file))[0] != cue[1]}
    decisions = np.zeros((len(names), len(_DECISIONS)), np.int64)
    if not cues:
        raise ValueError(f"shape and texture are of the same category in all {len(files)} images")
    for result in inference_model(predictor, list(cues), batch_size=batch_size):
        means = [result["pred_scores"][labels].mean() for labels in CATEGORIES.values()]
        shape, texture = cues[result["image"]]
        decided = names[int(np.argmax(means))]
        column = {shape: 0, texture: 1}.get(decided, 2)
        decisions[names.index(shape), column] += 1
    return ShapeBias(decisions)


def draw_shape_bias(found: ShapeBias) -> Figure:
    """The share of decisions for the shape by category, as a matplotlib figure; the line is that of all images.

    Examples:
        >>> beit.draw_shape_bias(beit.shape_bias("beit_base_patch16_224", "cue-conflict")).savefig("shape_bias.png")

    Args:
        found: of `shape_bias`.
    """
    figure, axes = make_figure(1, 1, 7, 6)
    axis = axes[0, 0]
    shown = [(name, row) for name, row in zip(CATEGORIES, found.decisions, strict=True) if row[:2].sum()]
    axis.barh([name for name, _ in shown], [_share(row) for _, row in shown], color="tab:blue")
    axis.axvline(found.percent, color="black", linestyle="--")
    axis.set_xlim(0, 100)
    axis.invert_yaxis()
    axis.set_xlabel("decisions for the shape among those for shape or texture, %")
    counts = ", ".join(
        f"{count} {name}" for count, name in zip(found.decisions.sum(0), _DECISIONS, strict=True)
    )
    axis.set_title(f"shape bias {found.percent:.1f} %\ndecisions: {counts}", fontsize=10)
    return figure


def write_shape_bias(found: ShapeBias, path: Path) -> Path:
    """Write the decisions as CSV, one line per category and one for all; its path."""
    rows = [*zip(CATEGORIES, found.decisions, strict=True), ("all", found.decisions.sum(0))]
    cells = ((name, *row.tolist(), f"{_share(row):.2f}") for name, row in rows)
    return write_table(path, SHAPE_BIAS_TITLES, cells)


def _share(row: np.ndarray) -> float:
    shape, texture = row[:2].tolist()
    return 100 * shape / (shape + texture) if shape + texture else float("nan")


def _cues(file: str) -> tuple[str, str]:
    """Category of shape and of texture."""
    match = _STIMULUS.fullmatch(Path(file).stem)
    if match is None or not {*match.groups()} <= CATEGORIES.keys():
        raise ValueError(
            f"{file} is not named after shape and texture, such as cat1-elephant3.png; the categories are {', '.join(CATEGORIES)}"
        )
    return match[1], match[2]
