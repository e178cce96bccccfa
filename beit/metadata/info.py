"""What is known of a model without its tensors."""

from __future__ import annotations

from dataclasses import dataclass

from beit.metadata.architecture import Architecture
from beit.metadata.class_names import ClassNames
from beit.metadata.stated import StatedModel
from beit.preprocessing import Preprocessing


@dataclass(frozen=True)
class ModelInfo:
    """Kind, sizes, preprocessing and classes of a model: of its tensors, the files beside them, and its publisher."""

    name: str  # for messages
    kind: str  # see `architecture`
    architecture: Architecture
    stated: StatedModel
    preprocessing: Preprocessing
    class_names: ClassNames | None
    # Blocks (from 0) whose outputs a segmentation head was "trained" on and, for files of transformers, those that
    # transformers itself uses ("huggingface").
    feature_layers: dict[str, tuple[int, ...]]
    palette: tuple[tuple[int, int, int], ...]  # colors of the classes of a segmentation model, if stated
    run_config: str  # YAML of the run's config, inside of the weights; "" if they have none
