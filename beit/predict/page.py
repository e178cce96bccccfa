"""What the page of `beit serve` shows of a picture. Floor 5: no page in here."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from beit.data.images import ImageError, open_image
from beit.predict.attention_maps import image_attentions, image_maps, overlay, rollout_of
from beit.predict.classifier import Classifier
from beit.predict.segmentation import Segmenter
from beit.predict.segmentation_overlays import class_areas, overlay_classes

# H heads, N tokens

_ROLLOUT_BYTES = 256 * 2**20  # weights of all blocks at once; a large model of 512 pixels has 1.6 GB of them
_SHOWN = 640  # pixels: longer side of the pictures sent back


@dataclass(frozen=True)
class PageResult:
    """`scores` of the best classes (for a class map their share of the picture) by name, largest first; `picture` with
    what the model looks at, or the classes, over it; `caption` says which."""

    scores: dict[str, float]
    picture: Image.Image
    caption: str


class PagePredictor:
    """Looks at picture files. Several threads may call one: they decode at once and take turns at the model.

    Args:
        predictor: what `beit.predict.load_predictor` gives.
        topk: classes shown.
        max_bytes: of a file.
        max_pixels: width x height of a picture, refused before it is decoded.

    Raises:
        ValueError: the model is no classifier with classes and no segmentation model.
    """

    def __init__(
        self, predictor: object, *, topk: int = 5, max_bytes: int = 10_000_000, max_pixels: int = 25_000_000
    ) -> None:
        has_classes = isinstance(predictor, Segmenter) or (
            isinstance(predictor, Classifier) and predictor.model.num_classes
        )
        if not has_classes:
            raise ValueError("the page shows classifiers and segmentation models; this model has no classes")
        self.predictor = predictor
        self.topk = topk
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self._lock = threading.Lock()

    def __call__(self, path: str | Path) -> PageResult:
        """What the model says of a picture.

        Raises:
            ImageError: no such file, no picture, a damaged one, or one beyond the limits.
        """
        size = Path(path).stat().st_size if Path(path).is_file() else 0
        if size > self.max_bytes:
            raise ImageError(
                path, f"{size / 1e6:.1f} MB; files of up to {self.max_bytes / 1e6:g} MB are taken here"
            )
        predictor = self.predictor
        if isinstance(predictor, Segmenter):
            turned = predictor.open_options.get("exif_orientation", False)
            image = open_image(path, exif_orientation=turned, max_pixels=self.max_pixels)
            return self._class_map(predictor, image)
        assert isinstance(predictor, Classifier)
        turned = predictor.preprocessing.exif_orientation
        image = open_image(path, exif_orientation=turned, max_pixels=self.max_pixels)
        return self._classes(predictor, image)

    def _classes(self, predictor: Classifier, image: Image.Image) -> PageResult:
        with self._lock:
            best = predictor([image], self.topk)[0]["topk"]
            values, caption = _attention(predictor, image)
        view = predictor.view(image)
        view = view.resize(_fitting(view.size), Image.Resampling.BICUBIC)
        names = Counter(row["class"] for row in best)
        scores = {
            row["class"] if names[row["class"]] == 1 else f"{row['class']} ({row['label']})": row["score"]
            for row in best
        }
        return PageResult(scores, overlay(view, values), caption)

    def _class_map(self, predictor: Segmenter, image: Image.Image) -> PageResult:
        with self._lock:
            classes = predictor(image)
        size = _fitting(image.size)
        shown = Image.fromarray(classes).resize(size, Image.Resampling.NEAREST)
        rows = class_areas(classes, predictor.class_names)[: self.topk]
        picture = overlay_classes(
            image.resize(size, Image.Resampling.BICUBIC),
            np.asarray(shown),
            predictor.class_names,
            predictor.palette,
        )
        return PageResult(
            {str(row["name"]): float(row["share"]) for row in rows}, picture, "the class of each pixel"
        )


def _attention(predictor: Classifier, image: Image.Image) -> tuple[np.ndarray, str]:
    """A map over the patches, and what it is: rollout, or where that needs too much memory the last block's mean."""
    model = predictor.model
    tokens = model.patch_embed.num_patches + 1
    if 4 * model.depth * model.blocks[0].attn.num_heads * tokens**2 <= _ROLLOUT_BYTES:
        return rollout_of(predictor, image_attentions(predictor, image)), "attention through all blocks"
    weights = predictor.outputs([image], attentions=[model.depth - 1]).attentions[0][0].numpy()
    return image_maps(predictor, [weights])[0].mean(axis=0), "attention of the last block"


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) scaled so that the longer side is what is shown."""
    factor = _SHOWN / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
