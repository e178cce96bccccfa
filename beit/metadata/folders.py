"""The JSON files of a model folder, written as timm and transformers read them, and what they have no place for.

Source: timm/models/_hub.py `save_config_for_hf`; transformers, models/beit/configuration_beit.py and
models/flava/configuration_flava.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from beit.imagenet_classes import class_names as names_of_list
from beit.metadata.architecture import MIM_V1, SEGMENTATION, DalleSizes
from beit.metadata.files import FOLDER_JSON
from beit.metadata.info import ModelInfo
from beit.metadata.pretrained_cfg import TIMM_KEYS, pretrained_cfg, timm_crop
from beit.metadata.processor_config import processor_config
from beit.metadata.stated import EPSILON, IN_TENSORS, MULTI_LABEL, NUM_HEADS_UNKNOWN, PROBLEM_TYPE, RATES
from beit.preprocessing import PIL_FILTERS

_BASE = {"embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "mlp_ratio": 4.0}
_LARGE = {"embed_dim": 1024, "depth": 24, "num_heads": 16, "patch_size": 16, "mlp_ratio": 4.0}
_TIMM_NAMES = (
    *("beit_base_patch16_224", "beit_base_patch16_384", "beit_large_patch16_224", "beit_large_patch16_384"),
    *("beit_large_patch16_512", "beitv2_base_patch16_224", "beitv2_large_patch16_224"),
)
_TRANSFORMERS_CLASSES = {MIM_V1: "BeitForMaskedImageModeling", SEGMENTATION: "BeitForSemanticSegmentation"}


def folder_files(info: ModelInfo, publisher: str) -> tuple[dict[str, dict[str, object]], list[str]]:
    """The JSON files of a folder by name, and sentences on what they do not hold.

    Args:
        info: on the weights in the folder.
        publisher: "timm" or "huggingface".
    Raises:
        ValueError: the library has no such model.
    """
    _check_model(info, publisher)
    if publisher == "timm":
        return {"config.json": _timm_config(info)}, _timm_notes(info)
    if info.architecture.dalle:
        return {
            "config.json": _codebook_config(info.architecture.dalle),
            "preprocessor_config.json": _CODEBOOK_PROCESSOR,
        }, []
    files = {"config.json": _transformers_config(info)}
    if info.preprocessing.mean and info.preprocessing.interpolation:
        files["preprocessor_config.json"] = processor_config(info.preprocessing)
    return files, _transformers_notes(info)


def refuse_stale(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder with a JSON file of other weights that none of the files to write replaces.

    Raises:
        ValueError: it has one.
    """
    stale = [name for name in FOLDER_JSON if name not in names and (folder / name).exists()]
    if stale:
        raise ValueError(
            f"{folder} holds {', '.join(stale)} of other weights, for which these have no content: name a new folder"
        )


def _check_model(info: ModelInfo, publisher: str) -> None:
    found = info.architecture
    if found.width and not found.num_heads:
        raise ValueError(f"{info.name}: {NUM_HEADS_UNKNOWN}")
    if found.num_heads and found.head_dim * found.num_heads != found.width:
        raise ValueError(
            f"{info.name}: its heads have {found.head_dim} channels; the BEiT of {publisher} has only "
            f"width / heads, {found.width} / {found.num_heads}"
        )
    if publisher != "huggingface" or info.kind != SEGMENTATION:
        return
    if found.decoder_channels != found.width:
        raise ValueError(
            f"{info.name}: its segmentation head has {found.decoder_channels} channels; that of transformers has the encoder's {found.width}"
        )
    if len(info.feature_layers.get("trained", ())) != 4:
        raise ValueError(
            f"{info.name}: which four blocks feed its segmentation head is not stated; convert the run folder, whose "
            "config.yaml has MODEL.OUT_INDICES"
        )


# ---- timm ----------------------------------------------------------------------------------------------------------


def _timm_config(info: ModelInfo) -> dict[str, object]:
    found, preprocessing = info.architecture, info.preprocessing
    version = "beitv2" if preprocessing.mean and preprocessing.mean[0] != 0.5 else "beit"
    sizes = ("width", "depth", "num_heads", "patch_size")
    shape = {IN_TENSORS[field].timm: getattr(found, field) for field in sizes}
    shape["mlp_ratio"] = found.mlp_width / found.width
    size = "large" if shape == _LARGE else "base"
    name = f"{version}_{size}_patch16_{found.image_size}"
    stated = {key: value for key, value in pretrained_cfg(preprocessing).items() if key in TIMM_KEYS}
    config: dict[str, object] = {
        "architecture": name if name in _TIMM_NAMES else f"{version}_{size}_patch16_224",
        "num_classes": found.num_classes,
        "num_features": found.width,
        "global_pool": "avg" if found.pooling == "mean" else "token",
        "pretrained_cfg": {**stated, "num_classes": found.num_classes},
    }
    if isinstance(info.class_names, tuple):  # timm has the lists of ImageNet itself
        config["label_names"] = list(info.class_names)
    arguments: dict[str, object] = {} if shape in (_BASE, _LARGE) else dict(shape)
    unusual = (
        (name not in _TIMM_NAMES, "img_size", found.image_size),
        (found.pooling == "token", "global_pool", "token"),
        (not found.has_query_bias, "qkv_bias", False),
        (not found.has_layer_scale, "init_values", None),
        (found.has_absolute_positions, "use_abs_pos_emb", True),
        (not found.has_relative_positions, "use_rel_pos_bias", False),
        (found.has_shared_relative_positions, "use_shared_rel_pos_bias", True),
    )
    arguments |= {key: value for applies, key, value in unusual if applies}
    rates = {keys.timm: getattr(info.stated, field) for field, keys in RATES.items()}
    arguments |= {key: value for key, value in rates.items() if value}
    return config | ({"model_args": arguments} if arguments else {})


def _timm_notes(info: ModelInfo) -> list[str]:
    p = info.preprocessing
    notes = (
        [f"timm takes its own defaults for what is not known: {', '.join(p.unknown)}"] if p.unknown else []
    )
    if p.resize is not None and timm_crop(p) != (None, None):
        notes.append(
            "timm rounds odd margins of a crop half to even, transformers down: crops can differ by a pixel"
        )
    elif p.resize is not None:
        notes.append(
            f"timm has no place for this preprocessing ({p.describe_resize()}): it resizes to image size / crop_pct and crops"
        )
    if info.stated.epsilon not in (None, EPSILON):
        notes.append(f"timm has no place for layer_norm_eps {info.stated.epsilon}: it takes {EPSILON}")
    if info.stated.is_multi_label:
        notes.append(
            "timm has no place for several labels of an image: take the sigmoids of its outputs, not the softmax"
        )
    return notes + _exif_notes(info, "timm")


def _exif_notes(info: ModelInfo, library: str) -> list[str]:
    if not info.preprocessing.exif_orientation:
        return []
    return [f"{library} does not turn images by their EXIF orientation, as these weights expect"]


# ---- transformers --------------------------------------------------------------------------------------------------


def _transformers_config(info: ModelInfo) -> dict[str, object]:
    found, size = info.architecture, info.architecture.image_size or info.preprocessing.image_size
    stated = info.stated
    classifier = "BeitForImageClassification" if found.num_classes else "BeitModel"
    config: dict[str, object] = {
        "architectures": [_TRANSFORMERS_CLASSES.get(info.kind, classifier)],
        "model_type": "beit",
        **{keys.transformers: getattr(found, field) for field, keys in IN_TENSORS.items()},
        "image_size": list(size) if isinstance(size, tuple) else size,
        "layer_norm_eps": stated.epsilon or EPSILON,  # transformers' default is 1e-12
        "use_mask_token": found.has_mask_token,
        "layer_scale_init_value": (stated.init_values or 0.1) if found.has_layer_scale else 0.0,
        # In pre-training the only norm is the one before lm_head; False would add another inside the encoder.
        "use_mean_pooling": info.kind == MIM_V1 or found.pooling != "token",
    }
    rates = {keys.transformers: getattr(stated, field) for field, keys in RATES.items()}
    config |= {key: value for key, value in rates.items() if value is not None}
    if stated.pool_scales:
        config["pool_scales"] = list(stated.pool_scales)
    if info.kind == MIM_V1:
        config["vocab_size"] = found.num_codes
    if info.kind == SEGMENTATION:
        config["out_indices"] = list(info.feature_layers["trained"])
        config["use_auxiliary_head"] = found.auxiliary_convs > 0
        if found.auxiliary_convs:
            config["auxiliary_num_convs"] = found.auxiliary_convs
            config["auxiliary_channels"] = found.auxiliary_channels
    if found.num_classes:
        names = _names(info) or [f"LABEL_{i}" for i in range(found.num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    if stated.is_multi_label:
        config[PROBLEM_TYPE] = MULTI_LABEL
    return config


def _names(info: ModelInfo) -> tuple[str, ...] | None:
    """Names of the classes, those of a published list written out."""
    return names_of_list(info.class_names) if isinstance(info.class_names, str) else info.class_names


def _transformers_notes(info: ModelInfo) -> list[str]:
    notes, size = _exif_notes(info, "transformers"), info.architecture.image_size
    preprocessing = info.preprocessing
    if not (preprocessing.mean and preprocessing.interpolation):
        unknown = ", ".join(preprocessing.unknown)
        notes.append(
            f"no preprocessor_config.json is written: {unknown} are not known ({preprocessing.source})"
        )
    elif isinstance(size, tuple) and preprocessing.crop_pct and not preprocessing.squash:
        notes.append(
            f"transformers cannot crop images to {size[0]}x{size[1]} after resizing them to cover it: "
            "preprocessor_config.json resizes them to that size instead"
        )
    elif preprocessing.crop_pct and not preprocessing.squash:
        notes.append(
            "transformers rounds odd margins of a crop down, the others half to even: crops can differ by a pixel"
        )
    if isinstance(size, tuple) and not info.architecture.has_absolute_positions:
        notes.append(
            "transformers takes position tables of images that are not square for transposed ones, and its outputs "
            "differ: after from_pretrained, for each module that has `relative_position_bias_table`, set "
            "module.window_size = module.window_size[::-1]"
        )
    if not info.architecture.has_query_bias:
        notes.append("transformers always has biases of query and value: zeros are written")
    if info.kind == SEGMENTATION:
        trained = info.feature_layers["trained"]
        notes.append(
            f"transformers takes the outputs of blocks {', '.join(str(i - 2) for i in trained)} (from 0), the "
            f"head was trained on {', '.join(map(str, trained))}: after from_pretrained set model.config._out_indices = "
            f"{[i + 2 for i in trained]}"
        )
    return notes


# ---- transformers: DALL-E, which FLAVA has as its codebook ----------------------------------------------------------


# Defaults of FlavaImageProcessor, without those of its own encoder. map_pixels is x * 0.8 + 0.1.
_CODEBOOK_PROCESSOR: dict[str, object] = {
    "image_processor_type": "FlavaImageProcessor",
    "return_codebook_pixels": True,
    "codebook_do_resize": True,
    "codebook_size": {"height": 112, "width": 112},
    "codebook_resample": PIL_FILTERS.index("lanczos"),
    "codebook_do_center_crop": True,
    "codebook_crop_size": {"height": 112, "width": 112},
    "codebook_do_rescale": True,
    "codebook_rescale_factor": 1 / 255,
    "codebook_do_map_pixels": True,
    "codebook_do_normalize": True,
    "codebook_image_mean": [0.0, 0.0, 0.0],
    "codebook_image_std": [1.0, 1.0, 1.0],
}


def _codebook_config(sizes: DalleSizes) -> dict[str, object]:
    return {
        "architectures": ["FlavaImageCodebook"],
        "model_type": "flava_image_codebook",
        "num_groups": sizes.groups,
        "num_blocks_per_group": sizes.blocks,
        "input_channels": sizes.channels_in,
        "hidden_size": sizes.width,
        "vocab_size": sizes.channels_out,
    }
