"""A trained segmentation model: images to class maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from paddle import nn
from PIL import Image
from yacs.config import CfgNode

from beit.data.image_mask import Color, class_names_and_palette
from beit.data.segmentation import SegmentEvalTransform, build_eval_transform
from beit.deploy.compiled import CompiledModel
from beit.models.segmentation_inference import Protocol, build_protocol, segment
from beit.models.upernet import UperNet
from beit.predict.predictor import Predictor, fit_longer_side
from beit.predict.segmentation_overlays import class_areas, overlay_classes, palette_image
from beit.preprocessing import Preprocessing, as_triple, exif_orientation_of

# h, w size of an image; K classes


class ClassMapPredictor(Predictor):
    """What is made of class maps, whichever program computes them."""

    task: ClassVar[str] = "segment"
    score_name: ClassVar[str] = "share of the image"

    class_names: tuple[str, ...]

    def result(self, classes: np.ndarray) -> dict[str, Any]:
        """The result of a call for a class map uint8 `[h, w]`."""
        return {"pred_sem_seg": classes, "classes": class_areas(classes, self.class_names)}

    def summary(self, result: dict[str, Any], topk: int = 5) -> dict[str, Any]:
        """The `topk` largest classes, with their share of the image as score."""
        rows = [
            {"class": row["name"], "label": row["class"], "score": row["share"]} for row in result["classes"]
        ]
        return {"topk": rows[:topk]}

    def draw(self, image: Image.Image, result: dict[str, Any]) -> dict[str, Image.Image]:
        """`overlay`: the image blended with the colors of its classes; `classes`: the class number of each pixel."""
        classes = result["pred_sem_seg"]
        return {
            "overlay": overlay_classes(image, classes, self.class_names, self.palette),
            "classes": palette_image(classes, self.palette),
        }

    def explain(self, image: Image.Image, result: dict[str, Any], side: int) -> tuple[Image.Image, str]:
        """The image blended with the colors of its classes, with a legend."""
        size = fit_longer_side(image.size, side)
        classes = Image.fromarray(result["pred_sem_seg"]).resize(size, Image.Resampling.NEAREST)
        resized = image.resize(size, Image.Resampling.BICUBIC)
        drawn = overlay_classes(resized, np.asarray(classes), self.class_names, self.palette)
        return drawn, "the class of each pixel"


@dataclass(frozen=True, repr=False)
class Segmenter(ClassMapPredictor):
    """A segmentation model with the protocol and the transform of its evaluation."""

    model: UperNet
    preprocessing: Preprocessing
    protocol: Protocol
    transform: SegmentEvalTransform
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    engine: str = "paddle"
    precision: str = "float32"

    def __call__(self, images: Sequence[Image.Image], topk: int = 5) -> list[dict[str, Any]]:
        """The class maps of RGB images, one image at a time, since their sizes differ.

        Each result has `pred_sem_seg` (uint8 `[h, w]`, the class of each pixel) and `classes`: all classes that occur,
        largest first, each with `class`, `name`, `pixels` and `share`.
        """
        return [self.result(self.class_map(image)) for image in images]

    def class_map(self, image: Image.Image) -> np.ndarray:
        """The class of each pixel of an RGB image, uint8 `[h, w]`."""
        views = self.transform.images(image)
        tensors = [self.normalize(views[f"image_{k}"][None]) for k in range(len(views))]
        classes = segment(self._network, tensors, (image.height, image.width), self.protocol)
        return classes[0].numpy().astype(np.uint8)

    @cached_property
    def _network(self) -> UperNet:
        size, engine, precision = self.image_size, self.engine, self.precision
        if engine == "paddle" and precision == "float32":
            return self.model
        return cast(
            UperNet, CompiledModel(self.model, "logits", size=size, engine=engine, precision=precision)
        )

    @property
    def encoder(self) -> nn.Layer:
        """The `Beit` of the model."""
        return self.model.backbone


def segmenter(
    model: UperNet,
    config: CfgNode,
    folder: Path,
    class_names: tuple[str, ...] | None = None,
    colors: tuple[Color, ...] = (),
    engine: str = "paddle",
    precision: str = "float32",
) -> Segmenter:
    """A segmentation model that predicts with the settings of TEST.* of a config.

    Args:
        model: with its weights, in evaluation mode.
        config: of the model.
        folder: of the weights. A training run writes the names and colors of the classes there; without them they are
            those of ADE20K if the config has its classes, else numbers.
        class_names: that the weights state; None for those of the folder.
        colors: of the classes, that the weights state; those in the folder take precedence.
        engine, precision: what runs the network; see `beit.deploy.compiled.CompiledModel`.

    Raises:
        ValueError: the names do not fit the config.
    """
    names, palette = class_names_and_palette(config, folder, colors)
    names = class_names or names
    return Segmenter(
        model=model,
        preprocessing=Preprocessing(
            as_triple(config.DATA.IMAGENET_MEAN),
            as_triple(config.DATA.IMAGENET_STD),
            interpolation="bilinear",
            source="config",
            exif_orientation=exif_orientation_of(config),
        ),
        protocol=build_protocol(config),
        transform=build_eval_transform(config),
        class_names=names or tuple(f"class {k}" for k in range(config.MODEL.NUM_CLASSES)),
        palette=palette,
        engine=engine,
        precision=precision,
    )
