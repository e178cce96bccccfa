"""A trained model as `beit.deploy.export.export` takes it: a predictor or a tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import paddle
from yacs.config import CfgNode

from beit.deploy.export import Exportable
from beit.metadata.class_names import ClassNames
from beit.models.dalle import DalleTokenizer
from beit.models.tokenizer import tokenizer_image_size
from beit.models.vqkd import VqKd
from beit.predict.exported import is_export
from beit.predict.inference import predictor_of_weights
from beit.predict.resolve import build_loaded, find_weights, is_tokenizer, open_weights
from beit.preprocessing import ImageSize, Preprocessing, as_size, exif_orientation_of, height_width


@dataclass(frozen=True)
class ExportableTokenizer:
    """A tokenizer with its preprocessing; the members are those of `beit.deploy.export.Exportable`.

    Args:
        model: with its weights, in evaluation mode.
        image_size: (height, width) of its input, pixels.
        preprocessing: of which mean 0 and std 1 keep pixels in [0, 1].
        num_classes: number of codes.

    Raises:
        ValueError: the codebook was never initialized, or the image size does not fit.
    """

    task: ClassVar[str] = "tokenizer"
    class_names: ClassVar[None] = None
    threshold: ClassVar[None] = None
    palette: ClassVar[tuple[()]] = ()

    model: VqKd | DalleTokenizer
    image_size: tuple[int, int]
    preprocessing: Preprocessing
    num_classes: int

    def __post_init__(self) -> None:
        # Refuses a codebook that was never initialized, and an image size that does not fit, before the export.
        self.model.encode(paddle.zeros([1, 3, *self.image_size]))


def load_exportable(
    model: str | Path,
    *,
    key: str | None = None,
    config: CfgNode | str | Path | None = None,
    image_size: ImageSize | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
) -> Exportable:
    """A trained model for `beit.deploy.export.export`: a predictor, or of VQ-KD and DALL-E an `ExportableTokenizer`.

    Args:
        model: name from `list_models()`, output folder of a run, or checkpoint.
        key, config, image_size, preprocessing, class_names: as in `load_predictor`; a tokenizer takes its preprocessing
            from its config alone and has no class names.

    Raises:
        ValueError: the model is an export already; or as `load_predictor`, and for tokenizers as `ExportableTokenizer`.
    """
    if is_export(model):
        raise ValueError(f"{model} is an export already: name the weights that it was exported from")
    weights = find_weights(model, config, key)
    opened = open_weights(weights, image_size)
    if not is_tokenizer(opened):
        return predictor_of_weights(weights, opened, preprocessing, class_names, "paddle", "float32")
    if preprocessing is not None or class_names is not None:
        raise ValueError(
            f"{weights.name} is a tokenizer, which takes its preprocessing from its config alone and has no class names: "
            "leave them out"
        )
    network = build_loaded(opened, weights.name)
    assert isinstance(network, VqKd | DalleTokenizer)  # the kinds of `is_tokenizer`
    size = tokenizer_image_size(opened.config) if image_size is None else height_width(image_size)
    return _exportable_tokenizer(network, opened.config, size)


def _exportable_tokenizer(
    model: VqKd | DalleTokenizer, config: CfgNode, image_size: tuple[int, int]
) -> ExportableTokenizer:
    """A tokenizer with the center crop that its config, which may be one of pre-training, evaluates with."""
    data = config.DATA
    is_second_view = config.TASK != "tokenizer"
    preprocessing = Preprocessing(
        mean=(0.0, 0.0, 0.0),  # tokenizers take pixels in [0, 1]
        std=(1.0, 1.0, 1.0),
        crop_pct=data.CROP_PCT,
        interpolation=data.SECOND_INTERPOLATION if is_second_view else data.INTERPOLATION,
        image_size=as_size(image_size),
        source="config",
        exif_orientation=exif_orientation_of(config),
    )
    return ExportableTokenizer(model, image_size, preprocessing, config.TOKENIZER.NUM_CODES)
