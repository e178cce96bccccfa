"""timm's description of a preprocessing (`pretrained_cfg`), with keys of this package for what timm has no place for.

Source: timm/models/_pretrained.py `PretrainedCfg`; timm/data/transforms_factory.py `transforms_imagenet_eval`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from beit.containers.errors import shown
from beit.preprocessing import PIL_FILTERS, Preprocessing, as_size, as_triple, height_width

TIMM_KEYS = ("mean", "std", "crop_pct", "interpolation", "input_size", "crop_mode")
"""Keys that timm has; others stop its PretrainedCfg."""
_CROP_MODES = ("center", "squash")


def read_pretrained_cfg(content: Mapping[str, Any], known: Preprocessing) -> Preprocessing:
    """The preprocessing that a `pretrained_cfg` states; `known` where it is silent.

    Where a value is not supported, `unknown` names what is missing and `source` the key.
    """
    crop, size = content.get("crop_pct"), content.get("input_size")
    interpolation, mode = content.get("interpolation"), content.get("crop_mode")
    source, resize = "config.json beside the weights", content.get("resize")
    turned = content.get("exif_orientation")
    result = replace(
        known,
        mean=as_triple(content.get("mean")) or known.mean,
        std=as_triple(content.get("std")) or known.std,
        crop_pct=float(crop) if isinstance(crop, int | float) and crop > 0 else known.crop_pct,
        interpolation=known.interpolation if interpolation is None else interpolation,
        image_size=known.image_size or (as_size(size[1:]) if isinstance(size, list) else None),
        squash=known.squash if mode is None else mode == "squash",
        source=source,
        exif_orientation=turned if isinstance(turned, bool) else known.exif_orientation,
        reduce_labels=content.get("reduce_labels", known.reduce_labels),
    )
    if resize is not None:
        sides = resize if isinstance(resize, list) else [resize]
        if len(sides) not in (1, 2) or not all(type(side) is int and side >= 0 for side in sides):
            reason = f"resize {resize} is not a side or [height, width]"
            return replace(result, crop_pct=None, interpolation="", source=f"{source}: {reason}")
        resize = (sides[0], sides[1]) if len(sides) == 2 else sides[0]
        is_cropped = bool(content.get("center_crop", True))
        result = replace(result, resize=resize, center_crop=is_cropped, crop_pct=None, squash=False)
    if mode not in (None, *_CROP_MODES):
        reason = f"crop_mode {shown(str(mode))} is not supported"
        result = replace(result, crop_pct=None, interpolation="", source=f"{source}: {reason}")
    elif result.interpolation not in PIL_FILTERS:
        reason = f"interpolation {shown(str(interpolation))} is not one of {', '.join(PIL_FILTERS)}"
        result = replace(result, interpolation="", source=f"{source}: {reason}")
    return result


def pretrained_cfg(preprocessing: Preprocessing) -> dict[str, object]:
    """The description of a preprocessing, without what is unknown."""
    size = preprocessing.image_size
    crop_pct, crop_mode = timm_crop(preprocessing)
    resize = preprocessing.resize
    entries = {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "crop_pct": crop_pct,
        "interpolation": preprocessing.interpolation or None,
        "input_size": [3, *height_width(size)] if size else None,
        "crop_mode": crop_mode,
        # not keys of timm's
        "exif_orientation": preprocessing.exif_orientation,
        "resize": list(resize) if isinstance(resize, tuple) else resize,
        "center_crop": None if preprocessing.center_crop else False,
        "reduce_labels": preprocessing.reduce_labels,
    }
    return {key: value for key, value in entries.items() if value is not None}


def timm_crop(p: Preprocessing) -> tuple[float | None, str | None]:
    """timm's `crop_pct` and `crop_mode`; None where it has none for this resize and crop."""
    if p.resize is None:
        return p.crop_pct, "squash" if p.squash else "center" if p.crop_pct else None
    size, is_squashed = height_width(p.image_size or 0), isinstance(p.resize, tuple)
    if not (p.resize and p.image_size and p.center_crop and (is_squashed or size[0] == size[1])):
        return None, None
    goal = height_width(p.resize)
    ratio = size[0] / goal[0]
    for crop_pct in (ratio, math.nextafter(ratio, 0)):  # timm divides by it and rounds down
        if [int(side / crop_pct) for side in size] == list(goal):
            return crop_pct, "squash" if is_squashed else "center"
    return None, None
