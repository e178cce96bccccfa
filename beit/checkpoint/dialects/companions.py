"""The JSON files that timm and transformers expect beside the weights, from what a canonical state tells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from beit.checkpoint.canonical import MIM_V1, SEGMENTATION, describe, kind_of, shapes_of
from beit.preprocessing import Preprocessing

_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "mlp_ratio": 4.0}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16, "mlp_ratio": 4.0}
_TIMM_NAMES = ("beit_base_patch16_224", "beit_base_patch16_384", "beit_large_patch16_224") + (
    "beit_large_patch16_384",
    "beit_large_patch16_512",
    "beitv2_base_patch16_224",
    "beitv2_large_patch16_224",
)
_PIL_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_TASKS = {MIM_V1: "BeitForMaskedImageModeling", SEGMENTATION: "BeitForSemanticSegmentation"}


def companion_files(
    publisher: str,
    state: Mapping[str, np.ndarray],
    preprocessing: Preprocessing,
    feature_layers: tuple[int, ...] = (),
) -> dict[str, dict[str, object]]:
    """JSON contents by file name for a folder in the publisher's form; empty for publishers that have none."""
    if publisher == "timm":
        return {"config.json": _timm_config(state, preprocessing)}
    if publisher == "huggingface":
        files = {"config.json": _huggingface_config(state, feature_layers)}
        if preprocessing.mean and preprocessing.std:
            files["preprocessor_config.json"] = _processor_config(preprocessing)
        return files
    return {}


def pretrained_cfg(preprocessing: Preprocessing) -> dict[str, object]:
    """timm's description of a preprocessing, without what is unknown."""
    size = preprocessing.image_size
    entries = {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "crop_pct": preprocessing.crop_pct,
        "interpolation": preprocessing.interpolation,
        "input_size": [3, size, size] if size else None,
        "crop_mode": "squash"
        if preprocessing.squash
        else None,  # timm's word; without it the crop is central
        "exif_orientation": preprocessing.exif_orientation or None,  # ours
    }
    return {key: value for key, value in entries.items() if value is not None}


def _timm_config(state: Mapping[str, np.ndarray], preprocessing: Preprocessing) -> dict[str, object]:
    found = describe(state, kind_of(shapes_of(state)))
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
        "pretrained_cfg": {**pretrained_cfg(preprocessing), "num_classes": found.num_classes},
    }
    arguments: dict[str, object] = {} if shape in (_BASE, _LARGE) else dict(shape)
    if name not in _TIMM_NAMES:
        arguments["img_size"] = found.image_size
    if found.pooling == "token":
        arguments["global_pool"] = "token"
    if not found.has_layer_scale:
        arguments["init_values"] = None
    if found.has_absolute_positions:
        arguments["use_abs_pos_emb"] = True
    if not found.has_relative_positions:
        arguments["use_rel_pos_bias"] = False
    if found.has_shared_relative_positions:
        arguments["use_shared_rel_pos_bias"] = True
    return config | ({"model_args": arguments} if arguments else {})


def _huggingface_config(
    state: Mapping[str, np.ndarray], feature_layers: tuple[int, ...]
) -> dict[str, object]:
    kind = kind_of(shapes_of(state))
    found = describe(state, kind)
    labels = {str(i): f"LABEL_{i}" for i in range(found.num_classes)}
    config: dict[str, object] = {
        "architectures": [
            _TASKS.get(kind, "BeitForImageClassification" if found.num_classes else "BeitModel")
        ],
        "model_type": "beit",
        "hidden_size": found.width,
        "num_hidden_layers": found.depth,
        "num_attention_heads": found.num_heads,
        "intermediate_size": found.mlp_width,
        "image_size": found.image_size,
        "patch_size": found.patch_size,
        # transformers' own default is 1e-12; the weights were trained with 1e-6.
        "layer_norm_eps": 1e-6,
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
        config |= {"out_indices": list(feature_layers), "auxiliary_channels": _auxiliary_channels(state)}
    return config | (
        {"id2label": labels, "label2id": {v: int(k) for k, v in labels.items()}} if labels else {}
    )


def _auxiliary_channels(state: Mapping[str, np.ndarray]) -> int:
    return int(state["auxiliary_head.convs.0.conv.weight"].shape[0])


def _processor_config(preprocessing: Preprocessing) -> dict[str, object]:
    size = preprocessing.image_size
    return {
        "image_processor_type": "BeitImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": _PIL_FILTERS[preprocessing.interpolation],
        "do_center_crop": False,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean or ()),
        "image_std": list(preprocessing.std or ()),
    }
