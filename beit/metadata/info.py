"""What is known of a model without its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from beit.containers.errors import CheckpointError, shown
from beit.metadata.architecture import CLIP, DALLE, DINO, NATIVE, SEGMENTATION, VQKD, Architecture
from beit.metadata.class_names import ClassNames, describe_unused_names, find_class_names
from beit.metadata.files import OUT_INDICES, PALETTE, Metadata
from beit.metadata.pretrained_cfg import pretrained_cfg
from beit.metadata.published import find_preprocessing
from beit.metadata.stated import (
    MODEL_ARGS,
    MULTI_LABEL,
    PROBLEM_TYPE,
    StatedModel,
    contradictions,
    stated_model,
)
from beit.preprocessing import Preprocessing

PUBLISHED_LAYERS: dict[int, tuple[int, ...]] = {12: (3, 5, 7, 11), 24: (7, 11, 15, 23)}
"""Depth -> blocks (from 0) whose outputs the published segmentation heads were trained on.

Source: unilm/beit/semantic_segmentation/configs, `out_indices` of the base and large models.
"""


@dataclass(frozen=True)
class ModelInfo:
    """Kind, sizes, preprocessing and classes of a model: of its tensors, the files beside them, and its publisher."""

    name: str  # for messages
    publisher: str
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
    results: dict[str, float]  # of the run, inside of the weights: see `metadata.files.Metadata`

    @property
    def title(self) -> str:
        """Name, publisher and kind, for messages."""
        return f"{self.name} ({self.publisher} {self.kind})"


def model_info(
    name: str, publisher: str, kind: str, architecture: Architecture, metadata: Metadata
) -> tuple[ModelInfo, list[str]]:
    """What is known of a model, and sentences on what is stated and not used.

    Args:
        name: of the file.
        publisher, kind, architecture: derived from its tensors.
        metadata: beside the tensors.
    Raises:
        CheckpointError: the metadata states something that no segmentation model has.
    """
    stated, classes = metadata.stated, architecture.num_classes
    model, sentences = stated_model(stated), describe_unused_names(classes, stated)
    if kind in (CLIP, DINO):  # their networks have activations and norms of their own
        model = StatedModel(num_heads=model.num_heads)
    elif kind not in (VQKD, *DALLE):
        sentences += (*contradictions(stated, architecture), *model.not_honored)
    info = ModelInfo(
        name=name,
        publisher=publisher,
        kind=kind,
        architecture=architecture,
        stated=model,
        preprocessing=find_preprocessing(publisher, kind, architecture, name, stated, metadata.preprocessing),
        class_names=find_class_names(classes, stated, is_published=publisher != NATIVE),
        feature_layers=_feature_layers(publisher, kind, architecture.depth, stated),
        palette=_palette(kind, classes, stated),
        run_config=metadata.run_config,
        results=metadata.results,
    )
    return info, sentences


def describe_weights(info: ModelInfo) -> dict[str, object]:
    """The metadata of a converted file, from which `read_metadata` restores the known fields of `info`."""
    heads = info.architecture.num_heads if info.kind not in (VQKD, *DALLE) else 0
    optional = {
        "class_names": info.class_names,
        OUT_INDICES: info.feature_layers.get("trained"),
        MODEL_ARGS: info.stated.arguments() | ({"num_heads": heads} if heads else {}),
        PALETTE: info.palette,
        PROBLEM_TYPE: MULTI_LABEL if info.stated.is_multi_label else None,
    }
    stated = {key: value for key, value in optional.items() if value}
    return {"pretrained_cfg": pretrained_cfg(info.preprocessing), **stated}


def _feature_layers(
    publisher: str, kind: str, depth: int, stated: Mapping[str, object]
) -> dict[str, tuple[int, ...]]:
    if kind != SEGMENTATION:
        return {}
    listed = stated.get(OUT_INDICES, stated.get("segmentation_indices"))
    if listed is None:
        listed = PUBLISHED_LAYERS.get(depth, ())
    if not isinstance(listed, list | tuple) or not all(type(i) is int and 0 <= i < 1000 for i in listed):
        raise CheckpointError(
            f"{OUT_INDICES} beside the weights is {shown(str(listed))}, expected a list of blocks such as [3, 5, 7, 11]"
        )
    found = {"trained": tuple(listed)}
    if publisher == "huggingface":
        # transformers keeps hidden state k, the output of block k - 1, if k + 1 is listed
        # (BeitForSemanticSegmentation.forward).
        found["huggingface"] = tuple(i - 2 for i in found["trained"])
    return found if listed else {}


def _palette(kind: str, num_classes: int, stated: Mapping[str, object]) -> tuple[tuple[int, int, int], ...]:
    palette = stated.get(PALETTE)
    if kind != SEGMENTATION or palette is None:
        return ()
    colors = palette if isinstance(palette, list) else []
    levels = [level for color in colors if isinstance(color, list) and len(color) == 3 for level in color]
    is_valid = all(type(level) is int and 0 <= level <= 255 for level in levels)
    if not is_valid or not len(colors) == num_classes == len(levels) // 3:
        raise CheckpointError(
            f"{PALETTE} of the weights is {shown(str(palette))}, expected {num_classes} colors [red, green, blue] of 0 to 255"
        )
    return tuple((red, green, blue) for red, green, blue in colors)
