"""Segment a picture or a folder of pictures with a trained UPerNet. Floor 4."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.checkpoint.load import load_pretrained
from beit.data.batch_transforms import normalize
from beit.data.class_folders import EXTENSIONS
from beit.data.dataset import open_options
from beit.data.image_mask import Color, class_names_and_palette
from beit.data.images import ImageError, OpenOptions, open_image
from beit.data.segmentation import SegmentEvalTransform, build_eval_transform
from beit.models.segmentation_inference import Protocol, build_protocol, segment
from beit.models.upernet import UperNet, build_upernet
from beit.predict.segmentation_overlays import class_areas, overlay_classes, palette_image

# h, w size of a picture


@dataclass(frozen=True)
class Segmenter:
    """A trained model with all that belongs to it: call it with a picture.

    `protocol`, `transform`, `mean` and `std` are those of the evaluation.
    """

    model: UperNet
    protocol: Protocol
    transform: SegmentEvalTransform
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    palette: tuple[Color, ...]
    open_options: OpenOptions

    def __call__(self, image: Image.Image) -> np.ndarray:
        """The class of each pixel of an RGB picture, uint8 `[h, w]`."""
        views = self.transform.images(image)
        tensors = [
            normalize(paddle.to_tensor(views[f"image_{k}"][None]), self.mean, self.std)
            for k in range(len(views))
        ]
        classes = segment(self.model, tensors, (image.height, image.width), self.protocol)
        return classes[0].numpy().astype(np.uint8)


def load_segmenter(config: CfgNode) -> Segmenter:
    """The model of a config with the weights of MODEL.PRETRAINED, ready to predict as TEST.* says.

    Names and colors of the classes: files beside the weights (a run writes them), else ADE20K's, else numbers.

    Raises:
        ValueError: there are no weights, or they or the names do not fit the config.
        FileNotFoundError: the weights do not exist.
    """
    if not config.MODEL.PRETRAINED:
        raise ValueError("MODEL.PRETRAINED is not set; name the weights to predict with: -pretrained FILE")
    model = build_upernet(config)
    load_pretrained(model, config.MODEL.PRETRAINED)
    model.eval()
    weights = Path(config.MODEL.PRETRAINED)
    names, palette = class_names_and_palette(config, weights if weights.is_dir() else weights.parent)
    return Segmenter(
        model=model,
        protocol=build_protocol(config),
        transform=build_eval_transform(config),
        mean=tuple(config.DATA.IMAGENET_MEAN),
        std=tuple(config.DATA.IMAGENET_STD),
        class_names=names or tuple(f"class {k}" for k in range(config.MODEL.NUM_CLASSES)),
        palette=palette,
        open_options=open_options(config),
    )


def predict_files(segmenter: Segmenter, source: Path, folder: Path) -> list[dict[str, Any]]:
    """Segment a picture, or every picture of a folder (not of its sub-folders); what was found, one entry each.

    For `street.jpg` it writes into `folder` `street_overlay.png` (colors over the picture, with a legend),
    `street_classes.png` (the class number of each pixel, from 0) and `street.json` (the entry: `image`, `height`,
    `width`, and `classes` with name, pixels and share, largest first). A picture that cannot be read gets an entry
    with `error` and no files, and the others go on.

    Raises:
        FileNotFoundError: there is no such picture or folder.
        ValueError: the folder holds no pictures.
    """
    files = _pictures(source)
    stems = Counter(file.stem for file in files)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for file in files:
        # a.jpg and a.png beside each other keep their extensions
        stem = file.stem if stems[file.stem] == 1 else file.name
        entries.append(_predict_file(segmenter, file, folder / stem))
    return entries


def _predict_file(segmenter: Segmenter, file: Path, target: Path) -> dict[str, Any]:
    try:
        image = open_image(file, **segmenter.open_options)
    except ImageError as error:
        return {"image": str(file), "error": error.reason}
    classes = segmenter(image)
    names, palette = segmenter.class_names, segmenter.palette
    entry = {
        "image": str(file),
        "height": image.height,
        "width": image.width,
        "classes": class_areas(classes, names),
    }
    overlay_classes(image, classes, names, palette).save(f"{target}_overlay.png")
    palette_image(classes, palette).save(f"{target}_classes.png")
    Path(f"{target}.json").write_text(
        json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return entry


def _pictures(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"{source} does not exist; name a picture or a folder of pictures")
    files = [file for file in sorted(source.iterdir()) if file.suffix.lower() in EXTENSIONS]
    if not files:
        raise ValueError(f"{source} holds no pictures ({' '.join(sorted(EXTENSIONS))})")
    return files
