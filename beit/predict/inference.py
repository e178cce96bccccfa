"""Three lines of Python from a model to class names: `inference_model`, `extract_feat`. Floor 4.8."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from beit.beit import Beit
from beit.checkpoint.class_names import ClassNames
from beit.config import with_options
from beit.predict.classifier import Classifier, classifier
from beit.predict.inputs import ImageError, ImageInput, list_inputs, open_input
from beit.predict.masked import MaskedModel, load_masked_model
from beit.predict.resolve import find_weights, load_classifier
from beit.predict.segmentation import Segmenter, load_segmenter
from beit.predict.segmentation_overlays import class_areas
from beit.preprocessing import Preprocessing

Predictor = Classifier | Segmenter | MaskedModel
Model = str | Path | Beit | Predictor

_DECODERS = 4  # threads that read pictures; Pillow releases the interpreter while it decodes


def inference_model(
    model: Model,
    images: ImageInput | Sequence[ImageInput],
    topk: int = 5,
    *,
    batch_size: int = 16,
    config: CfgNode | str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
) -> Any:
    """What a model says of a picture (a dict), or of several (a list of dicts, in order).

    A classifier gives `pred_label`, `pred_score`, `pred_class`, `pred_scores` (float32 `[K]`) and `topk` (dicts with
    `class`, `label`, `score`); a segmentation model `pred_sem_seg` (uint8 `[h, w]`, a class for each pixel) and
    `classes` (name, pixels and share, largest first); a pre-trained model the tokens it puts into hidden patches
    (`MaskedModel`). Pictures of files have their path as `image`.

    Args:
        model: name from `list_models()`, output folder of a run, checkpoint, `Beit`, or result of `load_predictor`.
        images: file, folder, pattern, Pillow picture, array uint8 `[H, W, 3]` (RGB), or a list of these.
        topk: classes in `topk`.
        batch_size: pictures at a time.
        config: of the weights, where it is not beside them.
        preprocessing: fields that differ from what the weights carry.
        class_names: other names; `imagenet-1k` and `imagenet-21k` are lists of this package.

    Raises:
        ValueError: the preprocessing is unknown; the message says what to pass. Otherwise as `find_weights`,
            `load_classifier`.
        ImageError, FileNotFoundError: a picture cannot be read.
    """
    predictor = load_predictor(model, config=config, preprocessing=preprocessing, class_names=class_names)
    pictures, is_single = list_inputs(images)
    results = []
    for _, result in predict_each(predictor, pictures, topk=topk, batch_size=batch_size):
        if isinstance(result, ImageError | ValueError):
            raise result
        results.append(result)
    return results[0] if is_single else results


def extract_feat(
    model: Model,
    images: ImageInput | Sequence[ImageInput],
    *,
    batch_size: int = 16,
    config: CfgNode | str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> np.ndarray:
    """Pooled features of a classifier or encoder, float32 `[D]` of a picture, `[n, D]` of several.

    Arguments and errors are those of `inference_model`.

    Raises:
        ValueError: the model is no classifier or encoder.
    """
    predictor = load_predictor(model, config=config, preprocessing=preprocessing)
    if not isinstance(predictor, Classifier):
        raise ValueError("features are those of a classifier or of an encoder; this is another kind of model")
    pictures, is_single = list_inputs(images)
    rows = [
        predictor.features([_open(predictor, picture) for picture in pictures[k : k + batch_size]])
        for k in range(0, len(pictures), batch_size)
    ]
    features = np.concatenate(rows)
    return features[0] if is_single else features


def load_predictor(
    model: Model,
    *,
    config: CfgNode | str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
) -> Predictor:
    """A trained model with all it needs to look at pictures: load it once, use it often.

    Arguments and errors are those of `inference_model`.
    """
    if isinstance(model, Classifier | Segmenter | MaskedModel):
        return model
    if isinstance(model, Beit):
        return classifier(model, preprocessing=preprocessing, class_names=class_names)
    weights = find_weights(model, config)
    task = weights.config.TASK if weights.config is not None else "classify"
    loaders: dict[str, Callable[[CfgNode], Predictor]] = {
        "segment": load_segmenter,
        "pretrain": load_masked_model,
    }
    if task in loaders:
        if preprocessing is not None or class_names is not None:
            raise ValueError(f"TASK: {task} takes its preprocessing and class names from its config alone")
        return loaders[task](with_options(weights.config, ["MODEL.PRETRAINED", str(weights.path)]))
    if task != "classify":
        raise ValueError(f"{weights.name} is a run of TASK: {task}, which has nothing to say of a picture")
    return classifier(
        load_classifier(weights), preprocessing=preprocessing, class_names=class_names, origin=weights.name
    )


def predict_each(
    predictor: Predictor, pictures: Sequence[ImageInput], *, topk: int = 5, batch_size: int = 16
) -> Iterator[tuple[ImageInput, dict[str, Any] | ImageError | ValueError]]:
    """Each picture with its result, in order; for one that cannot be read the error, and the others go on."""
    with ThreadPoolExecutor(_DECODERS) as pool:
        for start in range(0, len(pictures), batch_size):
            chunk = pictures[start : start + batch_size]
            opened = list(pool.map(lambda picture: _try_open(predictor, picture), chunk))
            good = [image for image in opened if isinstance(image, Image.Image)]
            results = iter(_run(predictor, good, topk))
            for picture, image in zip(chunk, opened, strict=True):
                if not isinstance(image, Image.Image):
                    yield picture, image
                    continue
                result = next(results)
                yield (
                    picture,
                    {"image": str(picture), **result} if isinstance(picture, str | Path) else result,
                )


def _run(predictor: Predictor, images: list[Image.Image], topk: int) -> list[dict[str, Any]]:
    if not images:
        return []
    if isinstance(predictor, Classifier):
        return predictor(images, topk)
    if isinstance(predictor, MaskedModel):
        return predictor(images)
    maps = [predictor(image) for image in images]
    return [
        {"pred_sem_seg": classes, "classes": class_areas(classes, predictor.class_names)} for classes in maps
    ]


def _open(predictor: Predictor, picture: ImageInput) -> Image.Image:
    if isinstance(predictor, Classifier):
        return open_input(picture, exif_orientation=predictor.preprocessing.exif_orientation)
    if isinstance(predictor, MaskedModel):
        return open_input(picture, exif_orientation=predictor.exif_orientation)
    return open_input(picture, exif_orientation=predictor.open_options.get("exif_orientation", False))


def _try_open(predictor: Predictor, picture: ImageInput) -> Image.Image | ImageError | ValueError:
    try:
        return _open(predictor, picture)
    except ValueError as error:  # ImageError is one
        return error
