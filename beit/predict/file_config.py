"""The config of the model that a file holds, derived from the names and shapes of its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from beit.checkpoint.canonical import depth_of
from beit.checkpoint.translate import Checkpoint, CheckpointInfo
from beit.config import get_config
from beit.data.ade20k import CLASS_NAMES
from beit.metadata.architecture import (
    CLASSIFIER,
    CLIP,
    DALLE,
    DALLE_ENCODER,
    DINO,
    MIM,
    MIM_V2,
    NATIVE,
    SEGMENTATION,
    VQKD,
    Architecture,
)
from beit.metadata.stated import IN_TENSORS, NOT_IN_TENSORS, NUM_HEADS_UNKNOWN, StatedModel
from beit.preprocessing import height_width

_EARLY_LAYERS = {12: 9, 24: 21}
"""Depth -> MODEL.EARLY_LAYERS of the published BEiT v2. Source: unilm/beit2, README.md, `--early_layers`."""


def config_of_file(opened: Checkpoint, name: str) -> CfgNode:
    """The config of the model in a checkpoint: classifier, encoder, masked model, segmentation model or tokenizer.

    Args:
        opened: the checkpoint.
        name: what to call it in messages.

    Raises:
        ValueError: the image size, or another number that tensors do not show, is unknown: a config is needed then. Or
            tensors are missing; a model is never larger than the tensors in its file.
    """
    info = opened.info
    if info.kind in (CLIP, DINO):
        raise ValueError(f"{name} is a {info.kind.upper()} teacher, not a BEiT")
    opened.require_complete()
    if not info.architecture.num_heads and info.kind not in DALLE:
        raise ValueError(f"{name}: {NUM_HEADS_UNKNOWN} (config=…, --cfg)")
    if info.stated.wrong_outputs:
        raise ValueError(f"{name} is not a BEiT of this package: {'; '.join(info.stated.wrong_outputs)}")
    base, options = None, {"MODEL.NAME": Path(info.name).stem}
    if info.kind in DALLE:
        base = "beit_base_patch16_224_pt22k"
        options |= _dalle(info)
    elif info.kind == VQKD:
        base = "vqkd_encoder_base_decoder_3x768x12_clip"
        options |= _vqkd(opened, name)
    else:
        options |= _encoder(opened, name)
    if info.kind == CLASSIFIER and info.stated.is_multi_label:
        options |= {"TASK": "multilabel", "TRAIN.LOSS": "bce"}
    if info.kind in MIM:
        base = "beitv2_base_patch16_224_pt1k" if info.kind == MIM_V2 else "beit_base_patch16_224_pt22k"
        options |= _masked(opened, name)
    if info.kind == SEGMENTATION:
        base = "upernet_beit_base_patch16_512_pt22k"
        options |= _segmentation(opened, name)
    return get_config(base, [item for pair in options.items() for item in pair])


def _encoder(opened: Checkpoint, name: str) -> dict[str, Any]:
    info = opened.info
    options = {
        "DATA.IMAGE_SIZE": _image_size(opened, name),
        **_model_options(info.architecture, info.stated),
        "MODEL.QKV_BIAS": info.architecture.has_query_bias,
    }
    if info.preprocessing.mean and info.preprocessing.std:
        options |= {
            "DATA.IMAGENET_MEAN": info.preprocessing.mean,
            "DATA.IMAGENET_STD": info.preprocessing.std,
        }
    return options


def _image_size(opened: Checkpoint, name: str) -> int | list[int]:
    info = opened.info
    size = info.architecture.image_size or info.stated.image_size or info.preprocessing.image_size
    if not size:
        raise ValueError(
            f"the image size of {name} is unknown: state it as image_size in config.json beside the weights, or give its "
            "config (config=…, --cfg)"
        )
    return size if isinstance(size, int) else list(size)


def _model_options(found: Architecture, stated: StatedModel) -> dict[str, Any]:
    facts = [(keys, getattr(stated, field)) for field, keys in NOT_IN_TENSORS.items()]
    facts += [(keys, getattr(found, field)) for field, keys in IN_TENSORS.items()]
    options = {f"MODEL.{keys.config}": value for keys, value in facts if keys.config and value is not None}
    if found.head_dim * found.num_heads != found.width:
        options["MODEL.ATTN_HEAD_SIZE"] = found.head_dim
    return options | {
        "MODEL.NUM_CLASSES": found.num_classes,
        "MODEL.MLP_RATIO": found.mlp_width / found.width,
        "MODEL.INIT_VALUES": (stated.init_values or 0.1) if found.has_layer_scale else 0.0,
        "MODEL.USE_MEAN_POOLING": found.pooling != "token",
    }


def _masked(opened: Checkpoint, name: str) -> dict[str, Any]:
    state, found = opened.state, opened.info.architecture
    options: dict[str, Any] = {"TOKENIZER.NUM_CODES": found.num_codes}
    if opened.info.kind == MIM_V2:
        if found.depth not in _EARLY_LAYERS:
            raise ValueError(
                f"after which block the patch aggregation of {name} begins is unknown: give its config, which states "
                "MODEL.EARLY_LAYERS (config=…, --cfg)"
            )
        options |= {
            "MODEL.EARLY_LAYERS": _EARLY_LAYERS[found.depth],
            "MODEL.HEAD_LAYERS": depth_of(state, "cls_pt_layers."),
            "MODEL.SHARED_LM_HEAD": "cls_pt_lm_head.weight" not in state,
        }
    return options


def _segmentation(opened: Checkpoint, name: str) -> dict[str, Any]:
    info, found = opened.info, opened.info.architecture
    if "trained" not in info.feature_layers:
        raise ValueError(
            f"which blocks feed the segmentation head of {name} is unknown: give its config, which states "
            "MODEL.OUT_INDICES (config=…, --cfg)"
        )
    is_ade = found.num_classes == len(CLASS_NAMES) and info.publisher != NATIVE
    side = min(height_width(found.image_size or 512))
    scales = info.stated.pool_scales
    return ({"MODEL.POOL_SCALES": list(scales)} if scales else {}) | {
        "MODEL.OUT_INDICES": list(info.feature_layers["trained"]),
        "MODEL.DECODER_CHANNELS": found.decoder_channels,
        "MODEL.AUXILIARY_CHANNELS": found.auxiliary_channels,
        "DATA.DATASET": "ade20k" if is_ade else "image_mask",
        "DATA.RESIZE_LIMITS": [4 * side, side],  # as the official evaluations with 512 and with 640 pixels
    }


def _vqkd(opened: Checkpoint, name: str) -> dict[str, Any]:
    found = opened.info.architecture
    return {
        "TASK": "tokenizer",
        "DATA.IMAGE_SIZE": _image_size(opened, name),
        "MODEL.PATCH_SIZE": found.patch_size,
        "TOKENIZER.TYPE": "vqkd",
        "TOKENIZER.PATCH_SIZE": found.patch_size,
        "TOKENIZER.EMBED_DIM": found.width,
        "TOKENIZER.DEPTH": found.depth,
        "TOKENIZER.NUM_HEADS": found.num_heads,
        "TOKENIZER.NUM_CODES": found.num_codes,
        "TOKENIZER.CODE_DIM": opened.state["quantize.embedding.weight"].shape[1],
    }


def _dalle(info: CheckpointInfo) -> dict[str, Any]:
    sizes, is_encoder = info.architecture.dalle, info.kind == DALLE_ENCODER
    assert sizes is not None
    groups = max(sizes.groups, 1)
    stride = 2 ** (groups - 1)
    return {
        "TASK": "pretrain",
        "DATA.IMAGE_SIZE": 14 * stride,  # the published models pre-train with 14 x 14 tokens
        "MODEL.PATCH_SIZE": stride,  # so that DATA.IMAGE_SIZE is also the size of the tokenizer's input
        "TOKENIZER.TYPE": "dall-e",
        "TOKENIZER.DALLE_GROUPS": groups,
        "TOKENIZER.DALLE_WIDTH": sizes.width if is_encoder else sizes.width_out,
        "TOKENIZER.NUM_CODES": sizes.channels_out if is_encoder else sizes.channels_in,
        **({} if is_encoder else {"TOKENIZER.DALLE_CODE_WIDTH": sizes.width}),
    }
