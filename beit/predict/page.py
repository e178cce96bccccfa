"""The results that the web page of `beit serve` shows for an image file. The page is in `beit/tools/serve.py`."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from beit.data.images import FORMATS, ImageError, ImageFile
from beit.predict.predictor import Predictor

# TIFF and PPM are left out: a TIFF of 164 bytes can declare tiles that take gigabytes to decode.
_ACCEPTED = tuple(
    name
    for name in ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "BMP", "GIF", "HEIF")
    if name == "MPO" or name in FORMATS
)
SHOWN_FORMATS = ", ".join(name for name in _ACCEPTED if name not in ("MPO", "HEIF"))
"""Formats that browsers can send and this installation reads. (MPO are JPEGs of phones.)"""
_NAME = "the image"  # in messages, of content without a file
_SHOWN_SIDE = 640  # pixels, longer side of the images sent back


@dataclass(frozen=True)
class PageResult:
    """The result for one image.

    `scores` of the best classes by name, largest first: the probability, or with class maps the share of the image;
    `image` with the attention or the classes drawn over it; `caption` names which.
    """

    scores: dict[str, float]
    image: Image.Image
    caption: str


class PagePredictor:
    """Predicts from image files within limits. Several threads may call it: they decode in parallel, and one at a time
    runs the model.

    Args:
        predictor: a model with classes (`load_predictor`).
        topk: classes shown.
        max_bytes: largest file.
        max_pixels: largest width x height, checked before the file is decoded.

    Raises:
        ValueError: the model has no classes.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        topk: int = 5,
        max_bytes: int = 10_000_000,
        max_pixels: int = 25_000_000,
    ) -> None:
        if not predictor.num_classes:
            raise ValueError("the page shows classifiers and segmentation models; this model has no classes")
        self.predictor = predictor
        self.topk = topk
        self.max_bytes, self.max_pixels = max_bytes, max_pixels
        self._lock = threading.Lock()

    def __call__(self, source: str | Path | bytes) -> PageResult:
        """The result for an image file, or for its content.

        Raises:
            ImageError: the file is missing, damaged, not an image in one of the formats of the page, or beyond the
                limits.
        """
        image = self._open(source)
        with self._lock:
            result = self.predictor([image], self.topk)[0]
            drawn, caption = self.predictor.explain(image, result, _SHOWN_SIDE)
        rows = self.predictor.summary(result, self.topk)["topk"]
        names = Counter(row["class"] for row in rows)
        scores = {
            row["class"] if names[row["class"]] == 1 else f"{row['class']} ({row['label']})": row["score"]
            for row in rows
        }
        return PageResult(scores, drawn, caption)

    def summary(self, source: str | Path | bytes) -> dict[str, Any]:
        """The result as JSON has it: the best classes as `topk` (`Predictor.summary`). Raises as a call does."""
        image = self._open(source)
        with self._lock:
            result = self.predictor([image], self.topk)[0]
        return self.predictor.summary(result, self.topk)

    def _open(self, source: str | Path | bytes) -> Image.Image:
        name, data = (_NAME, source) if isinstance(source, bytes) else (source, None)
        size = len(data) if data is not None else Path(name).stat().st_size if Path(name).is_file() else 0
        if size > self.max_bytes:
            raise ImageError(
                name, f"{size / 1e6:.1f} MB; files of up to {self.max_bytes / 1e6:g} MB are accepted"
            )
        with ImageFile(name, data=data, max_pixels=self.max_pixels) as file:
            if file.format not in _ACCEPTED:
                raise ImageError(name, f"its format is {file.format}; the page takes {', '.join(_ACCEPTED)}")
        return self.predictor.open(source, max_pixels=self.max_pixels)
