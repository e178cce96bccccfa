"""Which normalization, crop and pooling belong to a checkpoint. Source: the README files and configs of the publishers.

They are part of the weights: BEiT v1 was trained with mean and deviation 0.5, BEiT v2 with ImageNet's, and the
tensors of a classifier do not tell which of the two it is. What is not known is left unknown and said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from beit.checkpoint.canonical import DALLE, MIM, MIM_V1, MIM_V2, SEGMENTATION, VQKD, Architecture
from beit.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing, Triple, as_triple

# x * 0.8 + 0.1 of DALL-E's map_pixels, written as (x - mean) / std.
_DALLE_MEAN: Triple = (-0.125, -0.125, -0.125)
_DALLE_STD: Triple = (1.25, 1.25, 1.25)
_DALLE_IMAGE_SIZE = 112
_VQKD_IMAGE_SIZE = 224

_OFFICIAL_CROP = 0.875  # unilm: 256 -> 224; from 384 pixels up the whole picture
_PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def find_preprocessing(
    publisher: str, kind: str, architecture: Architecture, name: str, config: Mapping[str, object]
) -> Preprocessing:
    """Preprocessing of a checkpoint, from the JSON beside it, its kind and publisher, or its file name.

    Args: `name` - file or folder name; `config` - config.json and preprocessor_config.json beside it, merged.
    """
    found = _known(publisher, kind, architecture, name)
    found = replace(found, pooling=architecture.pooling)
    if publisher == "huggingface" and kind not in DALLE:
        found = replace(found, interpolation="bilinear", squash=True, crop_pct=1.0)
    timm = config.get("pretrained_cfg")
    if isinstance(timm, Mapping):
        return _with_timm_config(found, timm)
    if "image_mean" in config:
        return _with_processor_config(found, config)
    return found


def _known(publisher: str, kind: str, architecture: Architecture, name: str) -> Preprocessing:
    size = architecture.image_size or None
    if kind in DALLE:
        return Preprocessing(
            _DALLE_MEAN, _DALLE_STD, None, "lanczos", _DALLE_IMAGE_SIZE, source="DALL-E's map_pixels"
        )
    if kind == VQKD:
        return Preprocessing(
            HALF, HALF, None, "bicubic", size or _VQKD_IMAGE_SIZE, source="VQ-KD maps [0, 1] to [-1, 1]"
        )
    if kind == SEGMENTATION and publisher != "huggingface":
        source = "all UPerNet models were trained with ImageNet statistics"
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, None, "bilinear", size, source=source)
    crop = crop_fraction(publisher, size) if kind not in MIM else None  # nobody evaluates in pre-training
    version, source = _version(publisher, kind, architecture, name)
    if version == "v1":
        return Preprocessing(HALF, HALF, crop, "bicubic", size, source=source)
    if version == "v2":
        # timm takes a tighter crop for the large model of v2 than for the other three.
        crop = 0.95 if publisher == "timm" and architecture.depth == 24 else crop
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, crop, "bicubic", size, source=source)
    crop = None if publisher == "canonical" else crop  # not even who evaluated it is known
    return Preprocessing(None, None, crop, "bicubic", size, source=source)


def crop_fraction(publisher: str, image_size: int | None) -> float:
    """Evaluation crop of a publisher's classifiers at this size."""
    if image_size and image_size >= 384:
        return 1.0
    return 0.9 if publisher in ("paddlevit", "passl", "timm", "canonical") else _OFFICIAL_CROP


def _version(publisher: str, kind: str, architecture: Architecture, name: str) -> tuple[str, str]:
    """Whose statistics: "v1" (0.5), "v2" (ImageNet) or "", and how that is known."""
    if kind == MIM_V2:
        return "v2", "patch aggregation is BEiT v2"
    if publisher == "paddleclas":
        return "v2", "PaddleClas publishes BEiT v2 only"
    if publisher == "openmmlab" and kind == MIM_V1:
        return "v2", "OpenMMLab pre-trains with ImageNet statistics"
    if kind == MIM_V1 and architecture.has_absolute_positions and publisher != "huggingface":
        return "v2", "pre-trained on ImageNet-1k, with ImageNet statistics"
    lowered = name.lower()
    if "beitv2" in lowered or "beit_v2" in lowered or "beit2" in lowered:
        return "v2", "the name says BEiT v2"
    if publisher in ("paddlevit", "passl", "huggingface"):
        return "v1", "this publisher has BEiT v1 only"
    if re.search(r"(^|[^a-z])(beit|dit)[_-](base|large)", lowered):
        return "v1", "the name says BEiT v1"
    return (
        "",
        "unknown: BEiT v1 takes mean and std 0.5, v2 ImageNet's, and the weights do not tell which this is",
    )


def _with_timm_config(found: Preprocessing, config: Mapping[str, object]) -> Preprocessing:
    size = config.get("input_size")
    side = size[-1] if isinstance(size, list | tuple) and size else None
    crop, interpolation = config.get("crop_pct"), config.get("interpolation")
    return replace(
        found,
        mean=as_triple(config.get("mean")) or found.mean,
        std=as_triple(config.get("std")) or found.std,
        crop_pct=float(crop) if isinstance(crop, int | float) else found.crop_pct,
        interpolation=interpolation if isinstance(interpolation, str) else found.interpolation,
        image_size=found.image_size or (side if isinstance(side, int) else None),
        squash=config["crop_mode"] == "squash" if "crop_mode" in config else found.squash,
        source=str(config.get("source", "config.json beside the weights")),
        exif_orientation=bool(config.get("exif_orientation", False)),
    )


def _with_processor_config(found: Preprocessing, config: Mapping[str, object]) -> Preprocessing:
    resample = config.get("resample")
    return replace(
        found,
        mean=as_triple(config.get("image_mean")) or found.mean,
        std=as_triple(config.get("image_std")) or found.std,
        interpolation=_PIL_FILTERS.get(resample, found.interpolation)
        if isinstance(resample, int)
        else found.interpolation,
        crop_pct=_OFFICIAL_CROP if config.get("do_center_crop") else 1.0,
        source="preprocessor_config.json beside the weights",
    )
