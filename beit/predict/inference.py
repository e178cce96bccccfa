"""From a model by name to predictions in three lines: `inference_model`, `extract_feat`, `load_predictor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from beit.beit import Beit
from beit.data.image_input import ImageInput
from beit.deploy.engines import AUTO, check_name, check_precision
from beit.metadata.class_names import ClassNames
from beit.models.mim import BeitForMaskedImageModeling
from beit.models.upernet import UperNet
from beit.predict.classifier import Classifier, classifier
from beit.predict.exported import exported_predictor, is_export
from beit.predict.inputs import list_inputs
from beit.predict.masked import masked_model
from beit.predict.predictor import Predictor
from beit.predict.resolve import Opened, Weights, build_loaded, find_weights, is_tokenizer, open_weights
from beit.predict.segmentation import segmenter
from beit.preprocessing import ImageSize, Preprocessing
from beit.schema import shorten

Model = str | Path | Beit | Predictor

_DECODERS = 4  # threads that read images; Pillow releases the GIL while it decodes


def inference_model(
    model: Model,
    images: ImageInput | Sequence[ImageInput],
    topk: int = 5,
    *,
    batch_size: int = 16,
    config: CfgNode | str | Path | None = None,
    image_size: ImageSize | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
) -> Any:
    """The prediction for one image (a dict), or for several (a list of dicts, in order).

    A classifier returns `pred_label`, `pred_score`, `pred_class`, `pred_scores` (float32 `[K]`) and `topk` (dicts with
    `class`, `label`, `score`); a segmentation model `pred_sem_seg` (uint8 `[h, w]`, the class of each pixel) and
    `classes` (name, pixels and share, largest first); a pre-trained model the tokens that it predicts for masked
    patches (`MaskedModel`). Images from files have their path as `image`.

    Examples:
        >>> beit.inference_model("output/run", "photo.jpg")["pred_class"]

    Args:
        model: name from `list_models()`, output folder of a run, checkpoint, `Beit`, or result of `load_predictor`.
        images: file, folder, pattern, bytes of a file, open file, Pillow image, array in RGB order (`open_input` has its
            forms and ranges), or a list of these.
        topk: classes in `topk`, 1 or more.
        batch_size: images at a time.
        config: config of the weights, if it is not stored beside them.
        image_size: as in `load_predictor`.
        preprocessing: fields that replace those stored with the weights.
        class_names: names that replace those stored with the weights; `imagenet-1k` and `imagenet-21k` are built in.

    Raises:
        ValueError: the preprocessing is unknown; the message says what to pass. Otherwise as
            `load_model`.
        ImageError, FileNotFoundError: an image cannot be read.
    """
    predictor = load_predictor(
        model, config=config, image_size=image_size, preprocessing=preprocessing, class_names=class_names
    )
    inputs, is_single = list_inputs(images)
    results = []
    for _, result in predict_each(predictor, inputs, topk=topk, batch_size=batch_size):
        if isinstance(result, ValueError):
            raise result
        results.append(result)
    return results[0] if is_single else results


def extract_feat(
    model: Model,
    images: ImageInput | Sequence[ImageInput],
    *,
    batch_size: int = 16,
    config: CfgNode | str | Path | None = None,
    image_size: ImageSize | None = None,
    preprocessing: Preprocessing | None = None,
) -> np.ndarray:
    """Pooled features of a classifier or encoder: float32 `[D]` for one image, `[n, D]` for several.

    Examples:
        >>> beit.extract_feat("output/run", ["a.jpg", "b.jpg"]).shape
        (2, 768)

    Args:
        model: name from `list_models()`, output folder of a run, checkpoint, `Beit`, or result of `load_predictor`.
        images: file, folder, pattern, bytes of a file, open file, Pillow image, array in RGB order (`open_input` has its
            forms and ranges), or a list of these.
        batch_size: images at a time.
        config: config of the weights, if it is not stored beside them.
        image_size: as in `load_predictor`.
        preprocessing: fields that replace those stored with the weights.

    Raises:
        ValueError: the model is not a classifier or encoder; otherwise as `inference_model`.
        ImageError, FileNotFoundError: an image cannot be read.
    """
    predictor = require_classifier(
        load_predictor(model, config=config, image_size=image_size, preprocessing=preprocessing),
        "features",
    )
    inputs, is_single = list_inputs(images)
    rows = [
        predictor.features([predictor.open(image) for image in inputs[k : k + batch_size]])
        for k in range(0, len(inputs), batch_size)
    ]
    features = np.concatenate(rows)
    return features[0] if is_single else features


def load_predictor(
    model: Model,
    *,
    key: str | None = None,
    config: CfgNode | str | Path | None = None,
    image_size: ImageSize | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: ClassNames | None = None,
    engine: str = "paddle",
    precision: str = "float32",
) -> Predictor:
    """A trained model with its preprocessing and class names. Load it once, use it often.

    Examples:
        >>> predictor = beit.load_predictor("output/run")
        >>> predictor([predictor.open("photo.jpg")])[0]["pred_class"]

    Args:
        model: name from `list_models()`, output folder of a run, checkpoint, folder of `beit export`, or `Beit`. A predictor
            is returned as is, and takes none of the other arguments.
        key: of the state dict in the checkpoint, as in `load_pretrained`.
        config: config of the weights, if it is not stored beside them.
        image_size: of the model's input instead of that of the weights, in pixels: the side of a square, or (height,
            width), multiples of the patch size. Positions are resized as for fine-tuning at that size. For `Beit`, call
            it with `any_size=True`.
        preprocessing: fields that replace those stored with the weights (classifiers only).
        class_names: names that replace those stored with the weights (classifiers only); `imagenet-1k` and
            `imagenet-21k` are built in.
        engine: what runs the network. "paddle": the network itself. "openvino", "onnxruntime": its graph, which is made
            once and compared with the network on the first images; the weights must not change afterwards. "auto": the
            fastest of them that is installed (on a GPU Paddle). In a folder of `beit export` they run its graph.
        precision: of the engine: "float32", "bfloat16" (OpenVINO) or "int8" (OpenVINO, onnxruntime).

    Raises:
        ValueError: the preprocessing is unknown; the message says what to pass. The model does not predict from
            images. It is built already, and an argument is given that only weights take. The engine is unknown, or does not have the
            precision. Otherwise as `load_model`.
    """
    check_name(engine)
    check_precision(engine, precision)
    of_weights = {"key": key, "config": config, "image_size": image_size}
    if isinstance(model, Predictor):
        _refuse_given(model, of_weights | {"preprocessing": preprocessing, "class_names": class_names})
        own = tuple(getattr(model, name, None) for name in ("engine", "precision"))
        if (engine, precision) not in (("paddle", "float32"), own):
            _refuse_given(model, {"engine": engine, "precision": precision})
        return model
    if isinstance(model, Beit):
        _refuse_given(model, of_weights)
        return classifier(
            model, preprocessing=preprocessing, class_names=class_names, engine=engine, precision=precision
        )
    if is_export(model):
        if any(value is not None for value in (key, config, image_size, preprocessing, class_names)):
            raise ValueError(
                f"{model} is an export, which has a fixed config, image size, preprocessing and class names: leave these "
                "arguments out, or name the weights that it was exported from"
            )
        return exported_predictor(model, engine, precision)
    weights = find_weights(model, config, key)
    opened = open_weights(weights, image_size)
    return predictor_of_weights(weights, opened, preprocessing, class_names, engine, precision)


def _refuse_given(model: Beit | Predictor, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a model or predictor takes only while it is loaded."""
    for name, value in arguments.items():
        if value is not None:
            hint = ", or call a Beit with any_size=True" if name == "image_size" else ""
            raise ValueError(
                f"{name}={shorten(value)} is for weights that are loaded; this {type(model).__name__} is built already: pass "
                f"the name or file of its weights{hint}"
            )


def predictor_of_weights(
    weights: Weights,
    opened: Opened,
    preprocessing: Preprocessing | None,
    class_names: ClassNames | None,
    engine: str,
    precision: str,
) -> Predictor:
    """The predictor of the kind of model in a checkpoint; arguments and errors are those of `load_predictor`."""
    (_, info), tree, is_derived = opened
    if is_tokenizer(opened):
        raise ValueError(
            f"{weights.name} is a tokenizer, which does not predict from images: beit.load_model loads it, and "
            "`python -m beit export` writes its graph from images to token ids"
        )
    if tree.TASK not in ("classify", "multilabel", "segment", "pretrain"):
        raise ValueError(
            f"{weights.name} is a model of TASK: {tree.TASK}, whose models do not predict from images"
        )
    network = build_loaded(opened, weights.name)
    if isinstance(network, Beit) and not isinstance(network, BeitForMaskedImageModeling):
        found = classifier(
            network,
            preprocessing=preprocessing,
            class_names=class_names,
            origin=weights.name,
            engine=engine,
            precision=precision,
        )
        if tree.TASK == "multilabel":
            found = replace(found, threshold=tree.TEST.THRESHOLD)
        return found.with_views(tree.TEST.CROPS, tree.TEST.FLIP)
    if not isinstance(network, UperNet | BeitForMaskedImageModeling):
        raise ValueError(
            f"{weights.name} is DALL-E's decoder, which takes token ids, not images; see beit.load_model"
        )
    if preprocessing is not None or class_names is not None:
        raise ValueError(f"TASK: {tree.TASK} takes its preprocessing and class names from its config alone")
    if is_derived and info.preprocessing.mean is None:
        raise ValueError(f"the mean and std of {weights.name} are unknown: give its config (config=…, --cfg)")
    if isinstance(network, BeitForMaskedImageModeling):
        if engine not in (AUTO, "paddle") or precision != "float32":
            raise ValueError(
                f"masked patches are predicted by Paddle in float32 only: engine {engine!r}, precision {precision!r}; leave "
                "them out"
            )
        return masked_model(network, tree)
    folder = weights.path if weights.path.is_dir() else weights.path.parent
    names = info.class_names if isinstance(info.class_names, tuple) else None
    return segmenter(network, tree, folder, names, info.palette, engine, precision)


def require_classifier(predictor: Predictor, purpose: str) -> Classifier:
    """The predictor, if it is a classifier or an encoder.

    Args:
        predictor: any.
        purpose: what it is needed for, in the plural, for the message.

    Raises:
        ValueError: it is another kind of model.
    """
    if not isinstance(predictor, Classifier):
        raise ValueError(
            f"{purpose} need the weights of a classifier or an encoder; this is a {type(predictor).__name__} (TASK: "
            f"{predictor.task})"
        )
    return predictor


def predict_each(
    predictor: Predictor, inputs: Sequence[ImageInput], *, topk: int = 5, batch_size: int = 16
) -> Iterator[tuple[ImageInput, dict[str, Any] | ValueError]]:
    """Each image with its result, in order; an image that cannot be read comes with the error instead.

    Args:
        predictor: the model.
        inputs: single images: files, Pillow images or arrays.
        topk: classes in `topk`, 1 or more.
        batch_size: images at a time.
    """
    with ThreadPoolExecutor(_DECODERS) as pool:
        for start in range(0, len(inputs), batch_size):
            chunk = inputs[start : start + batch_size]
            opened = list(pool.map(lambda image: _try_open(predictor, image), chunk))
            images = [image for image in opened if isinstance(image, Image.Image)]
            results = iter(predictor(images, topk) if images else [])
            for source, image in zip(chunk, opened, strict=True):
                if not isinstance(image, Image.Image):
                    yield source, image
                    continue
                result = next(results)
                yield source, {"image": str(source), **result} if isinstance(source, str | Path) else result


def _try_open(predictor: Predictor, image: ImageInput) -> Image.Image | ValueError:
    try:
        return predictor.open(image)
    except ValueError as error:  # ImageError is one
        return error
