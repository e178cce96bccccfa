"""The files beside the weights, read and written: JSON of timm and transformers, config and class names of a run.

`metadata` is the merged JSON: `pretrained_cfg` (timm's keys), `image_mean`, `id2label` and others (transformers' keys),
`class_names` (a list, or the name of one).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from yacs.config import CfgNode

from beit.checkpoint.canonical import MIM_V1, SEGMENTATION, Architecture, kind_of, shapes_of
from beit.checkpoint.class_names import ClassNames
from beit.checkpoint.errors import CheckpointError
from beit.files import write_text
from beit.preprocessing import (
    OFFICIAL_CROP,
    PIL_FILTERS,
    ImageSize,
    Preprocessing,
    as_size,
    as_triple,
    height_width,
    preprocessing_of,
)

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of transformers or timm, the first that exists."""
RUN_CONFIG = "config.yaml"
"""Resolved config of a run, in its output folder."""
RUN_CLASS_NAMES = "class_names.txt"
"""Names of the classes of a run, one a line, in its output folder."""

_RUN_WEIGHTS = re.compile(r"(latest|best|model|epoch_\d+)\.pdparams")
_FOLDER_JSON = ("config.json", "preprocessor_config.json")
_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "mlp_ratio": 4.0}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16, "mlp_ratio": 4.0}
_TIMM_NAMES = (
    *("beit_base_patch16_224", "beit_base_patch16_384", "beit_large_patch16_224", "beit_large_patch16_384"),
    *("beit_large_patch16_512", "beitv2_base_patch16_224", "beitv2_large_patch16_224"),
)
_TRANSFORMERS_CLASSES = {MIM_V1: "BeitForMaskedImageModeling", SEGMENTATION: "BeitForSemanticSegmentation"}


# ---- reading -------------------------------------------------------------------------------------------------------


def is_run_file(path: Path) -> bool:
    """Whether a weights file was written by a run of this package and has the run's config beside it."""
    return bool(_RUN_WEIGHTS.fullmatch(path.name)) and path.with_name(RUN_CONFIG).is_file()


def sidecar_path(weights: Path) -> Path:
    """The JSON that `python -m beit convert` writes beside a `.pdparams` file, which itself holds tensors only."""
    return weights.with_suffix(".pretrained_cfg.json")


def read_metadata(weights: Path, header: Mapping[str, str]) -> tuple[dict[str, object], Preprocessing | None]:
    """The merged JSON beside a weights file, and the preprocessing of the run that wrote it, if it was one.

    Args:
        weights: the file.
        header: metadata inside of a safetensors file.
    Raises:
        CheckpointError: a JSON file in a folder of timm or transformers is invalid.
    """
    metadata: dict[str, object] = {}
    for key, kind in (("pretrained_cfg", dict), ("class_names", list | str)):
        content = _parse_json(header.get(key, "null"))
        if isinstance(content, kind) and content:
            metadata[key] = content
    preprocessing = None
    if weights.name in WEIGHT_FILES:
        for path in map(weights.with_name, _FOLDER_JSON):
            if path.is_file():
                metadata |= _read_folder_json(path)
    elif _RUN_WEIGHTS.fullmatch(weights.name):
        preprocessing = _run_preprocessing(weights.with_name(RUN_CONFIG))
        if preprocessing is not None:
            metadata["image_size"] = preprocessing.image_size
        names = [line.strip() for line in _read_text(weights.with_name(RUN_CLASS_NAMES)).splitlines()]
        if any(names):
            metadata["class_names"] = [name for name in names if name]
    sidecar = _parse_json(_read_text(sidecar_path(weights)))
    if isinstance(sidecar, dict):
        metadata |= {key: sidecar[key] for key in ("pretrained_cfg", "class_names") if key in sidecar}
    return metadata, None if "pretrained_cfg" in metadata else preprocessing


def stated_sizes(metadata: Mapping[str, object]) -> list[ImageSize]:
    """Image sizes that the JSON states for the model, the most specific first; usually one."""
    arguments, timm = metadata.get("model_args"), metadata.get("pretrained_cfg")
    size = timm.get("input_size") if isinstance(timm, Mapping) else None  # [channels, height, width]
    stated = (
        arguments.get("img_size") if isinstance(arguments, Mapping) else None,
        metadata.get("image_size"),
        size[1:] if isinstance(size, list) else None,
    )
    return [size for size in map(as_size, stated) if size]


def read_preprocessing(metadata: Mapping[str, object], known: Preprocessing) -> Preprocessing:
    """`known` with the values that timm's or transformers' JSON states instead."""
    timm, number = metadata.get("pretrained_cfg"), metadata.get("resample")
    if isinstance(timm, Mapping):
        crop, interpolation, size = timm.get("crop_pct"), timm.get("interpolation"), timm.get("input_size")
        return replace(
            known,
            mean=as_triple(timm.get("mean")) or known.mean,
            std=as_triple(timm.get("std")) or known.std,
            crop_pct=float(crop) if isinstance(crop, int | float) else known.crop_pct,
            interpolation=interpolation if isinstance(interpolation, str) else known.interpolation,
            image_size=known.image_size or (as_size(size[1:]) if isinstance(size, list) else None),
            squash=timm["crop_mode"] == "squash" if "crop_mode" in timm else known.squash,
            source="config.json beside the weights",
            exif_orientation=bool(timm.get("exif_orientation", False)),
        )
    if "image_mean" in metadata:
        return replace(
            known,
            mean=as_triple(metadata.get("image_mean")) or known.mean,
            std=as_triple(metadata.get("image_std")) or known.std,
            interpolation=next(
                (name for i, name in enumerate(PIL_FILTERS) if i == number), known.interpolation
            ),
            crop_pct=OFFICIAL_CROP if metadata.get("do_center_crop") else 1.0,
            source="preprocessor_config.json beside the weights",
        )
    return known


def _run_preprocessing(path: Path) -> Preprocessing | None:
    """The preprocessing of the run that wrote a folder; None if the file is missing or belongs to another program."""
    try:
        found = preprocessing_of(CfgNode(yaml.safe_load(_read_text(path))))
    except (yaml.YAMLError, AttributeError, AssertionError, TypeError, ValueError):
        return None
    return replace(found, source=f"{RUN_CONFIG} beside the weights")


def _read_folder_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _read_text(path: Path) -> str:
    """The text of a file; empty if there is none, or nothing that can be read."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _parse_json(text: str) -> Any:
    """The value of a JSON text; None if it is invalid, and thus not written by this package."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# ---- writing -------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def describe_weights(preprocessing: Preprocessing, class_names: ClassNames | None) -> dict[str, object]:
    """What `read_metadata` reads back of a converted file: preprocessing and class names, as far as known."""
    described: dict[str, object] = {"pretrained_cfg": _pretrained_cfg(preprocessing)}
    return described | ({"class_names": class_names} if class_names else {})


def folder_files(
    publisher: str,
    state: Mapping[str, np.ndarray],
    found: Architecture,
    preprocessing: Preprocessing,
    feature_layers: tuple[int, ...] = (),
) -> dict[str, dict[str, object]]:
    """The JSON files that timm or transformers read from a model folder: contents by file name."""
    if publisher == "timm":
        return {"config.json": _timm_config(found, preprocessing)}
    files = {"config.json": _transformers_config(state, found, feature_layers)}
    if preprocessing.mean and preprocessing.std:
        files["preprocessor_config.json"] = _processor_config(preprocessing)
    return files


def _pretrained_cfg(preprocessing: Preprocessing) -> dict[str, object]:
    """timm's description of a preprocessing, without what is unknown."""
    size = preprocessing.image_size
    entries = {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "crop_pct": preprocessing.crop_pct,
        "interpolation": preprocessing.interpolation,
        "input_size": [3, *height_width(size)] if size else None,
        "crop_mode": "squash" if preprocessing.squash else None,  # without it timm crops the center
        "exif_orientation": preprocessing.exif_orientation or None,  # not a key of timm's
    }
    return {key: value for key, value in entries.items() if value is not None}


def _timm_config(found: Architecture, preprocessing: Preprocessing) -> dict[str, object]:
    version = "beitv2" if preprocessing.mean and preprocessing.mean[0] != 0.5 else "beit"
    shape = {
        "embed_dim": found.width,
        "depth": found.depth,
        "num_heads": found.num_heads,
        "patch_size": found.patch_size,
        "mlp_ratio": found.mlp_width / found.width,
    }
    size = "large" if shape == _LARGE else "base"
    name = f"{version}_{size}_patch16_{found.image_size}"
    config: dict[str, object] = {
        "architecture": name if name in _TIMM_NAMES else f"{version}_{size}_patch16_224",
        "num_classes": found.num_classes,
        "num_features": found.width,
        "global_pool": "avg" if found.pooling == "mean" else "token",
        "pretrained_cfg": {**_pretrained_cfg(preprocessing), "num_classes": found.num_classes},
    }
    arguments: dict[str, object] = {} if shape in (_BASE, _LARGE) else dict(shape)
    unusual = (
        (name not in _TIMM_NAMES, "img_size", found.image_size),
        (found.pooling == "token", "global_pool", "token"),
        (not found.has_layer_scale, "init_values", None),
        (found.has_absolute_positions, "use_abs_pos_emb", True),
        (not found.has_relative_positions, "use_rel_pos_bias", False),
        (found.has_shared_relative_positions, "use_shared_rel_pos_bias", True),
    )
    arguments |= {key: value for applies, key, value in unusual if applies}
    return config | ({"model_args": arguments} if arguments else {})


def _transformers_config(
    state: Mapping[str, np.ndarray], found: Architecture, feature_layers: tuple[int, ...]
) -> dict[str, object]:
    kind = kind_of(shapes_of(state))
    classifier = "BeitForImageClassification" if found.num_classes else "BeitModel"
    config: dict[str, object] = {
        "architectures": [_TRANSFORMERS_CLASSES.get(kind, classifier)],
        "model_type": "beit",
        "hidden_size": found.width,
        "num_hidden_layers": found.depth,
        "num_attention_heads": found.num_heads,
        "intermediate_size": found.mlp_width,
        "image_size": found.image_size,
        "patch_size": found.patch_size,
        "layer_norm_eps": 1e-6,  # of the training; transformers' default is 1e-12
        "use_mask_token": "mask_token" in state,
        "use_absolute_position_embeddings": found.has_absolute_positions,
        "use_relative_position_bias": found.has_relative_positions,
        "use_shared_relative_position_bias": found.has_shared_relative_positions,
        "layer_scale_init_value": 0.1 if found.has_layer_scale else 0.0,
        # In pre-training the only norm is the one before lm_head; False would add another inside the encoder.
        "use_mean_pooling": kind == MIM_V1 or found.pooling != "token",
    }
    if kind == MIM_V1:
        config["vocab_size"] = state["lm_head.weight"].shape[1]
    if kind == SEGMENTATION:
        config["out_indices"] = list(feature_layers)
        config["auxiliary_channels"] = state["auxiliary_head.convs.0.conv.weight"].shape[0]
    if found.num_classes:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(found.num_classes)}
        config["label2id"] = {f"LABEL_{i}": i for i in range(found.num_classes)}
    return config


def _processor_config(preprocessing: Preprocessing) -> dict[str, object]:
    size = preprocessing.image_size
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": dict(zip(("height", "width"), height_width(size), strict=True)) if size else {},
        "resample": PIL_FILTERS.index(preprocessing.interpolation),
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean or ()),
        "image_std": list(preprocessing.std or ()),
    }
