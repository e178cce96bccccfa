"""Normalization, crop, filter and pooling of published checkpoints. Source: READMEs and configs of the publishers.

They belong to the weights: BEiT v1 was trained with mean and standard deviation 0.5, BEiT v2 with ImageNet's, and the
tensors of a classifier do not say which of the two it is. What is not known is left unknown and reported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from beit.metadata.architecture import DALLE, MIM, MIM_V1, MIM_V2, NATIVE, SEGMENTATION, VQKD, Architecture
from beit.metadata.precedence import read_preprocessing
from beit.preprocessing import (
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    OFFICIAL_CROP,
    ImageSize,
    Preprocessing,
    height_width,
)

_UNKNOWN = "unknown: BEiT v1 takes mean and std 0.5, v2 ImageNet's, and the weights do not show which this is"


def published_preprocessing(
    publisher: str, kind: str, version: int | None, image_size: ImageSize | None, *, is_large: bool = False
) -> Preprocessing:
    """How a publisher prepares images for its models; what is not known is None.

    Args:
        publisher, kind: as in `beit.metadata.info.ModelInfo`.
        version: 1 for statistics 0.5, 2 for ImageNet's, None if unknown.
        image_size: side, or (height, width), pixels.
        is_large: the large model, for which timm crops BEiT v2 more closely.
    """
    if kind in DALLE:
        # x * 0.8 + 0.1 of DALL-E's map_pixels, written as (x - mean) / std.
        return Preprocessing((-0.125,) * 3, (1.25,) * 3, None, "lanczos", 112)
    if kind == VQKD:
        return Preprocessing(HALF, HALF, None, "bicubic", image_size or 224)  # [0, 1] to [-1, 1]
    mean, std = {1: (HALF, HALF), 2: (IMAGENET_MEAN, IMAGENET_STD), None: (None, None)}[version]
    if publisher == "huggingface":  # its image processors squash for all BEiT checkpoints
        return Preprocessing(mean, std, 1.0, "bilinear", image_size, squash=True)
    if kind == SEGMENTATION:  # UPerNet was trained with ImageNet's statistics, for v1 as well
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, None, "bilinear", image_size)
    crop: float | None = OFFICIAL_CROP
    if kind in MIM or (version is None and publisher == NATIVE):
        crop = None  # pre-training has no evaluation; of other people's models it is not known
    elif publisher == "timm" and version == 2 and is_large:
        crop = 0.95
    elif image_size and min(height_width(image_size)) >= 384:
        crop = 1.0
    elif publisher in ("paddlevit", "passl", "timm", NATIVE):
        crop = 0.9
    return Preprocessing(mean, std, crop, "bicubic", image_size)


def find_preprocessing(
    publisher: str,
    kind: str,
    architecture: Architecture,
    name: str,
    metadata: Mapping[str, object],
    run: Preprocessing | None,
) -> Preprocessing:
    """Preprocessing of a checkpoint: of its run, or from the JSON beside it, its kind and publisher, or its file name.

    Args:
        publisher, kind, architecture: of the checkpoint.
        name: of its file or folder.
        metadata: the JSON beside it, see `beit.metadata.files`.
        run: of the run that wrote the weights, if it was one.
    """
    if run is not None:
        return replace(
            run, image_size=architecture.image_size or run.image_size, pooling=architecture.pooling
        )
    version, source = _version(publisher, kind, architecture, name)
    size, is_large = architecture.image_size, architecture.depth == 24
    found = published_preprocessing(publisher, kind, version, size, is_large=is_large)
    known = replace(found, pooling=architecture.pooling, source=source)
    # The image processor of a DALL-E encoder prepares images for the rest of FLAVA, too.
    return known if kind in DALLE else read_preprocessing(metadata, known)


def _version(publisher: str, kind: str, architecture: Architecture, name: str) -> tuple[int | None, str]:
    """Whose statistics a checkpoint takes (1: 0.5, 2: ImageNet's), and how that is known."""
    lowered = name.lower()
    is_huggingface = publisher == "huggingface"
    rules = (
        (kind in DALLE, None, "DALL-E's map_pixels"),
        (kind == VQKD, 1, "VQ-KD maps [0, 1] to [-1, 1]"),
        (
            kind == SEGMENTATION and not is_huggingface,
            2,
            "all UPerNet models were trained with ImageNet statistics",
        ),
        (kind == MIM_V2, 2, "patch aggregation is BEiT v2"),
        (publisher == "paddleclas", 2, "PaddleClas publishes BEiT v2 only"),
        (publisher == "openmmlab" and kind == MIM_V1, 2, "OpenMMLab pre-trains with ImageNet statistics"),
        (
            kind == MIM_V1 and architecture.has_absolute_positions and not is_huggingface,
            2,
            "pre-trained on ImageNet-1k, with ImageNet statistics",
        ),
        (re.search("beitv2|beit_v2|beit2", lowered), 2, "the name says BEiT v2"),
        (publisher in ("paddlevit", "passl", "huggingface"), 1, "this publisher has BEiT v1 only"),
        (re.search(r"(^|[^a-z])(beit|dit)[_-](base|large)", lowered), 1, "the name says BEiT v1"),
    )
    return next(((version, source) for holds, version, source in rules if holds), (None, _UNKNOWN))
