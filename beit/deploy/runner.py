"""Running an exported model on one of the engines of `beit.deploy.engines`.

Neither the network nor the training code is imported; Paddle is imported for its own engine only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.cpu import cores
from beit.deploy.description import GRAPH, Description, check_files, read_description
from beit.deploy.engines import AUTO, ENGINES, Engine, check_name, is_installed


@dataclass(frozen=True)
class Runner:
    """An exported model. Call it with a batch of images; several threads may share it.

    Args:
        description: of its inputs and outputs.
        engine: runs the graph: images to results in the order of `description.outputs`.
    """

    description: Description
    engine: Engine

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """The results by name, for uint8 images `[B, 3, height, width]` (`description.open` reads one from a file).

        Raises:
            ValueError: the images have another shape or type.
        """
        expected = (3, *self.description.image_size)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"expected uint8 images [B, {', '.join(map(str, expected))}], got {images.dtype} {list(images.shape)}"
            )
        if self.description.normalized:
            images = self.description.normalize(images)
        return dict(zip(self.description.outputs, self.engine(images), strict=True))


def load_runner(
    folder: str | Path, engine: str = "paddle", *, precision: str = "float32", threads: int = 0
) -> Runner:
    """The model in a folder that `python -m beit export` wrote.

    Args:
        folder: with `export.json` and the graph.
        engine: a key of `ENGINES`, or "auto" for the fastest that is installed and whose files the folder has.
        precision: "float32"; with Paddle and OpenVINO also "bfloat16", with onnxruntime also "int8" if it was exported.
        threads: number of threads of the engine; 0 for one per core.

    Raises:
        FileNotFoundError: a file of the export is missing.
        ValueError: unknown engine or precision, this machine cannot run it, or a file has changed since the export.
    """
    check_name(engine)
    description = read_description(folder)
    target = Path(folder) / GRAPH
    if engine == AUTO:
        has_onnx = target.with_suffix(".onnx").is_file()
        engine = next(name for name in ENGINES if name == "paddle" or (is_installed(name) and has_onnx))
    chosen = ENGINES[engine]
    check_files(Path(folder), description, chosen.suffixes)
    return Runner(description, chosen(target, precision, threads or cores(), description.task))
