"""Where a config contradicts what is known of weights."""

from __future__ import annotations

import numpy as np
from yacs.config import CfgNode

from beit.metadata.architecture import SEGMENTATION
from beit.metadata.info import ModelInfo
from beit.preprocessing import Preprocessing, as_size, preprocessing_of

_TOLERANCE = 1e-4  # of means, standard deviations and crops


def mismatches(info: ModelInfo, config: CfgNode, *, has_new_head: bool = False) -> list[str]:
    """One sentence for each key of the config that differs from the weights.

    Args:
        info: on the weights.
        config: the tree of `beit.config.get_config`.
        has_new_head: the head of the weights is not used.
    """
    data, model = config.DATA, config.MODEL
    if config.TASK == "segment" and info.kind != SEGMENTATION:
        return []  # the recipes train with other statistics and sizes than those of the encoder's file
    found = _layer_mismatch(info, config) + _preprocessing_mismatches(info.preprocessing, config)
    expected = info.preprocessing
    size, trained = as_size(data.IMAGE_SIZE), info.architecture.image_size or expected.image_size
    if trained and size != trained:
        found.append(f"DATA.IMAGE_SIZE is {size}, the checkpoint's is {trained}: positions are interpolated")
    pooling = "mean" if model.USE_MEAN_POOLING else "token"
    if expected.pooling and not has_new_head and pooling != expected.pooling:
        found.append(
            f"MODEL.USE_MEAN_POOLING is {model.USE_MEAN_POOLING}, the checkpoint pools by {expected.pooling}"
        )
    exact = (
        ("MODEL.NUM_HEADS", model.NUM_HEADS, info.stated.num_heads),
        ("MODEL.LAYER_NORM_EPS", model.LAYER_NORM_EPS, info.stated.epsilon),
        ("MODEL.POOL_SCALES", tuple(model.POOL_SCALES), info.stated.pool_scales),
    )
    found += [
        f"{key} is {given}, the checkpoint's is {stated}"
        for key, given, stated in exact
        if stated is not None and given != stated
    ]
    classes = info.architecture.num_classes
    if classes and classes != model.NUM_CLASSES:
        found.append(
            f"MODEL.NUM_CLASSES is {model.NUM_CLASSES}, the checkpoint has {classes}: its head is not used"
        )
    return found


def _layer_mismatch(info: ModelInfo, config: CfgNode) -> list[str]:
    """Whether the segmentation head gets the outputs of other blocks than it was trained on."""
    trained, chosen = info.feature_layers.get("trained"), config.MODEL.OUT_INDICES
    if trained is None or chosen is None or tuple(chosen) == trained:
        return []
    like_transformers = tuple(chosen) == info.feature_layers.get("huggingface")
    why = "as transformers reads the file" if like_transformers else "which no publisher uses"
    return [f"MODEL.OUT_INDICES is {list(chosen)}, {why}; it was trained on {list(trained)}"]


def _preprocessing_mismatches(expected: Preprocessing, config: CfgNode) -> list[str]:
    data, own = config.DATA, preprocessing_of(config)
    has_ratios = expected.resize is None and not expected.squash and own.resize is None
    values: tuple[tuple[str, object, object], ...] = (
        ("DATA.IMAGENET_MEAN", tuple(data.IMAGENET_MEAN), expected.mean),
        ("DATA.IMAGENET_STD", tuple(data.IMAGENET_STD), expected.std),
        ("DATA.CROP_PCT", data.CROP_PCT, expected.crop_pct if has_ratios else None),
        ("DATA.INTERPOLATION", data.INTERPOLATION, expected.interpolation or None),
    )
    if config.TASK == "segment":
        values += (("DATA.REDUCE_ZERO_LABEL", data.REDUCE_ZERO_LABEL, expected.reduce_labels),)
    found = [
        f"{key} is {given}, the checkpoint's is {wanted} ({expected.source})"
        for key, given, wanted in values
        if wanted is not None and not _equal(given, wanted)
    ]
    return found if has_ratios or config.TASK == "segment" else found + _resize_mismatch(own, expected)


def _resize_mismatch(own: Preprocessing, expected: Preprocessing) -> list[str]:
    """Whether images get another size before the crop, where one of the two states pixels."""
    resize, crop = own.resize_and_crop
    wanted, is_cropped = expected.resize_and_crop
    found = []
    if wanted is not None and resize != wanted:
        value = list(wanted) if isinstance(wanted, tuple) else wanted
        found.append(f"DATA.RESIZE is {own.resize}, the checkpoint's is {value} ({expected.source})")
    if wanted is not None and crop != is_cropped:
        found.append(f"DATA.CENTER_CROP is {crop}, the checkpoint's is {is_cropped} ({expected.source})")
    return found


def _equal(given: object, expected: object) -> bool:
    if isinstance(given, str) or isinstance(expected, str):
        return given == expected
    return bool(np.allclose(np.asarray(given), np.asarray(expected), rtol=0, atol=_TOLERANCE))
