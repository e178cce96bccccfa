"""`export.json`: the inputs, outputs, preprocessing and class names of an exported graph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.data.image_input import ImageInput, open_input
from beit.data.model_input import prepare_image
from beit.files import sha256_of
from beit.preprocessing import Preprocessing, as_size
from beit.text_files import read_json

FILE_NAME = "export.json"
GRAPH = "model"
"""Name of the files of a graph, without extension (`.json` or `.pdmodel`, `.pdiparams`, `.onnx`)."""

_FORMAT = 1


@dataclass(frozen=True)
class Description:
    """The description of an export.

    Args:
        task: "classify", "segment" or "tokenizer".
        output: key of `beit.deploy.network.OUTPUTS`.
        outputs: names of the results, in order.
        image_size: (height, width) of the graph's input, pixels.
        normalized: True if the graph takes normalized float32 images, False if it takes uint8.
        preprocessing: how images are resized, cropped and normalized.
        class_names: of the K classes; None if they have no names.
        palette: colors of the K classes of a segmentation model, else empty.
        threshold: score from which on a class is predicted, where images have any number of labels and the probabilities are
            sigmoids; None for one label and softmax.
        measured: differences from the model, as measured at the export.
        files: name of each other file of the export -> its SHA-256; empty for exports of earlier versions.
    """

    task: str
    output: str
    outputs: tuple[str, ...]
    image_size: tuple[int, int]
    normalized: bool
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    palette: tuple[tuple[int, int, int], ...] = ()
    threshold: float | None = None
    measured: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def open(self, image: ImageInput) -> np.ndarray:
        """An image, resized and cropped for the graph, uint8 `[3, height, width]`.

        Args:
            image: a path, bytes, an open file, a Pillow image or an array; see `beit.data.image_input.open_input`.

        Raises:
            ImageError: the file is not a readable image.
            ValueError: the array is not an image.
        """
        return self.prepare(open_input(image, exif_orientation=self.preprocessing.is_turned))

    def prepare(self, image: Image.Image) -> np.ndarray:
        """An RGB image, resized and cropped for the graph, uint8 `[3, height, width]`."""
        return prepare_image(image, self.image_size, self.preprocessing)

    def normalize(self, images: np.ndarray) -> np.ndarray:
        """(x / 255 - mean) / std in float32, for uint8 images `[B, 3, H, W]`."""
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
    """The description in the `export.json` of a folder.

    Raises:
        FileNotFoundError: the folder holds no `export.json`.
        ValueError: the file is damaged, or has another format.
    """
    file = Path(folder) / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; name a folder that `python -m beit export` wrote")
    content = read_json(file)
    try:
        if content.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}: it was written by another version")
        if "normalised" in content:  # British spelling, in exports of earlier versions
            content["normalized"] = content.pop("normalised")
        fields = content.pop("preprocessing")
        preprocessing = Preprocessing(
            **fields
            | {name: _tuple(fields[name]) for name in ("mean", "std")}
            | {"image_size": as_size(fields["image_size"]), "resize": _size(fields.get("resize"))}
        )
        names = content.pop("class_names")
        if not all(isinstance(part, str) for item in content.get("files", {}).items() for part in item):
            raise ValueError("its files have no SHA-256")
        return Description(
            **content
            | {"outputs": tuple(content["outputs"]), "image_size": tuple(content["image_size"])}
            | {"palette": tuple(tuple(color) for color in content["palette"])},
            preprocessing=preprocessing,
            class_names=None if names is None else tuple(names),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} does not describe an export: {error}") from error


def digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files of an export, except `export.json` itself."""
    return {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != FILE_NAME}


def check_files(folder: Path, description: Description, suffixes: tuple[str, ...]) -> None:
    """Compare the files with these extensions with their digests in the description; it may have none.

    Raises:
        ValueError: a file has changed since the export.
    """
    for name, digest in description.files.items():
        file = folder / name
        if file.suffix in suffixes and file.is_file() and sha256_of(file) != digest:
            raise ValueError(
                f"{file} has changed since the export: its SHA-256 is not that in {FILE_NAME}; copy the folder or export "
                "the model again"
            )


def _size(value: int | list[int] | None) -> int | tuple[int, int] | None:
    return (value[0], value[1]) if isinstance(value, list) else value


def _tuple(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(values)
