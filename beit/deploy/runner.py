"""Running an exported model on one of the engines of `beit.deploy.engines`.

Neither the network nor the training code is imported; Paddle is imported for its own engine only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.cpu import cores, given_threads
from beit.deploy.description import GRAPH, Description, check_files, read_description
from beit.deploy.engines import AUTO, ENGINES, Engine, check_name, check_precision, describe, preferred


@dataclass(frozen=True)
class Runner:
    """An exported model. Call it with a batch of images; several threads may share it.

    Args:
        description: of its inputs and outputs.
        engine: runs the graph: images to results in the order of `description.outputs`.
        name: of the engine, with its version.
    """

    description: Description
    engine: Engine
    name: str = ""

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
        engine: a key of `ENGINES`, or "auto" for the fastest that is installed and was compared at the export.
        precision: "float32"; with Paddle and OpenVINO also "bfloat16"; with OpenVINO also "int8", with onnxruntime if it
            was exported.
        threads: number of threads of the engine; 0 for `OMP_NUM_THREADS` or, without it, one per core.

    Raises:
        FileNotFoundError: a file of the export is missing.
        ValueError: unknown engine or precision, this machine cannot run it, or a file has changed since the export.
    """
    check_name(engine)
    check_precision(engine, precision)
    description = read_description(folder)
    if engine == AUTO:
        engine = next(
            (name for name in preferred(precision) if _is_compared(description, name, precision)), "paddle"
        )
    chosen = ENGINES[engine]
    check_files(Path(folder), description, chosen.suffixes)
    threads = threads or int(given_threads() or cores())
    ready = chosen(Path(folder) / GRAPH, precision, threads, description.task)
    return Runner(description, ready, describe(engine, precision))


def _is_compared(description: Description, engine: str, precision: str) -> bool:
    """Whether the export compared the files of an engine with the model; those of onnxruntime in int8 are its own."""
    return ("int8" if (engine, precision) == ("onnxruntime", "int8") else engine) in description.measured
