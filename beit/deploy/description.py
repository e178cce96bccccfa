"""`export.json`: what an exported graph takes and gives, so that whoever runs it need not guess."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.data.images import OpenOptions, open_image
from beit.data.transforms import FILTERS, EvalTransform, channels_first
from beit.preprocessing import Preprocessing

FILE_NAME = "export.json"
GRAPH = "model"
"""Name of the files of a graph without their extensions (`.json` or `.pdmodel`, `.pdiparams`, `.onnx`)."""

_FORMAT = 1


@dataclass(frozen=True)
class Description:
    """An export in words and numbers.

    Args:
        task: "classify" or "segment".
        output: key of `beit.deploy.network.OUTPUTS`; `outputs`: names of the results in their order.
        image_size: (height, width) of the images, pixels.
        normalized: the graph takes float32 that is normalized already; else uint8.
        preprocessing: what pictures go through before.
        class_names: of the K classes; None where nobody named them.
        palette: colors of the classes of a segmentation.
        measured: what the comparison with the model before the export gave.
    """

    task: str
    output: str
    outputs: tuple[str, ...]
    image_size: tuple[int, int]
    normalized: bool
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] = ()
    measured: dict[str, Any] = field(default_factory=dict)

    def open(self, path: str | Path) -> np.ndarray:
        """A picture file as the graph's preprocessing has it, uint8 `[3, height, width]`.

        Raises:
            ImageError: the file is no readable picture.
        """
        options: OpenOptions = {"exif_orientation": self.preprocessing.exif_orientation}
        return self.prepare(open_image(path, **options))

    def prepare(self, image: Image.Image) -> np.ndarray:
        """An RGB picture resized and cropped, uint8 `[3, height, width]`. Segmentation takes the whole picture."""
        height, width = self.image_size
        resample = FILTERS[self.preprocessing.interpolation]
        if self.preprocessing.squash or self.task == "segment":
            return channels_first(image.resize((width, height), resample))
        assert self.preprocessing.crop_pct is not None  # `export` refuses what it does not know
        transform = EvalTransform(self.image_size, self.preprocessing.crop_pct, resample)
        return transform(image)["image"]

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """(x / 255 - mean) / std of uint8 `[B, 3, H, W]`, float32: for graphs that take normalized images."""
        mean, std = (
            np.asarray(value, np.float32).reshape(1, 3, 1, 1)
            for value in (self.preprocessing.mean, self.preprocessing.std)
        )
        return (images.astype(np.float32) / np.float32(255) - mean) / std


def write_description(folder: Path, description: Description) -> None:
    """Write `export.json` into a folder."""
    content = {"format": _FORMAT, **asdict(description)}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


def read_description(folder: str | Path) -> Description:
    """What `write_description` wrote.

    Raises:
        FileNotFoundError: the folder holds no `export.json`.
        ValueError: it is damaged, or of a newer format.
    """
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; name a folder that `python -m beit export` wrote")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}: it was written by another version")
        if "normalised" in content:  # the spelling of the first exports
            content["normalized"] = content.pop("normalised")
        images = content.pop("preprocessing")
        images = Preprocessing(**images | {name: _tuple(images[name]) for name in ("mean", "std")})
        names = content.pop("class_names")
        return Description(
            **content
            | {"outputs": tuple(content["outputs"]), "image_size": tuple(content["image_size"])}
            | {"palette": tuple(tuple(color) for color in content["palette"])},
            preprocessing=images,
            class_names=None if names is None else tuple(names),
        )
    except (ValueError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} does not describe an export: {error}") from error


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
