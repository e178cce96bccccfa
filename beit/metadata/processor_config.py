"""`preprocessor_config.json` of transformers, read and written.

Source: transformers, models/beit/image_processing_pil_beit.py and models/clip/image_processing_pil_clip.py. The other
image processors read here (ViT, DeiT) take the same steps as BEiT's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from beit.containers.errors import listed, shown
from beit.preprocessing import PIL_FILTERS, ImageSize, Preprocessing, Triple, as_size, as_triple, height_width
from beit.text_files import read_json

FILE = "preprocessor_config.json"
PROCESSOR = "preprocessor_config"
"""Key of the metadata under which the content of the file stands."""

_TYPE_KEYS = ("image_processor_type", "feature_extractor_type")
_TYPE = re.compile(r"(Beit|ViT|DeiT|CLIP)(ImageProcessor|FeatureExtractor)(Fast|Pil)?")
_STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_reduce_labels", "do_convert_rgb")
"""Steps that are taken as the file says; images are always RGB here."""

_WITHOUT_EFFECT = {
    *(*_TYPE_KEYS, "processor_class", "_valid_processor_keys"),
    *("reduce_labels", "do_convert_rgb", "do_pad", "default_to_square"),
    *("data_format", "input_data_format", "return_tensors", "device", "disable_grouping"),
}
"""Keys of transformers' files that need not be read: names of classes, steps that are not taken, defaults of calls."""
_OLD_LABELS = "reduce_labels"
"""Name of `do_reduce_labels` before transformers 4.31."""


def read_processor(content: Mapping[str, Any], known: Preprocessing) -> Preprocessing:
    """The preprocessing that an image processor's file states; `known` where it is silent.

    `rescale_factor` becomes part of mean and standard deviation: (x f - m) / s is (x / 255 - m') / s' with m' and s' m
    and s divided by 255 f. Where a step is not supported or not stated, `unknown` names the crop and the filter, and `source` the key.

    Args:
        content: of the file.
        known: values of the publisher.
    """
    # null stands for the default of the class.
    stated = {key: value for key, value in content.items() if value is not None}
    problems = [
        f"{key} {shown(str(value))} is not supported"
        for key, value in stated.items()
        if is_unsupported(key, value)
    ]
    mean, std = _statistics(stated, known, problems)
    interpolation = _filter(stated.get("resample", PIL_FILTERS.index("bicubic")))
    if not interpolation:
        problems.append(
            f"resample {shown(str(stated['resample']))} is not one of 0 to {len(PIL_FILTERS) - 1}"
        )
    is_clip = "CLIP" in str(stated.get("image_processor_type", stated.get("feature_extractor_type")))
    resize = _resize(stated, problems, is_clip=is_clip)
    crop = _crop(stated, problems)
    labels = stated.get("do_reduce_labels", stated.get(_OLD_LABELS))
    result = replace(
        known,
        mean=mean,
        std=std,
        interpolation=interpolation,
        source=f"{FILE} beside the weights",
        reduce_labels=labels if isinstance(labels, bool) else known.reduce_labels,
    )
    if problems:
        source = f"{FILE} beside the weights: {'; '.join(problems)}"
        return replace(result, crop_pct=None, squash=False, resize=None, interpolation="", source=source)
    made = crop or (resize if isinstance(resize, tuple) else None)
    size = as_size(made) or known.image_size
    if made == resize and known.image_size in (None, size):  # the form of the published files
        return replace(result, image_size=size, squash=True, crop_pct=1.0)
    return replace(
        result, image_size=size, resize=resize, center_crop=crop is not None, squash=False, crop_pct=None
    )


def is_unsupported(key: str, value: object) -> bool:
    """Whether a key asks for a processor or a step that is not supported here; a null value asks for nothing."""
    if key in _TYPE_KEYS:
        return not _TYPE.fullmatch(str(value))
    return key == "crop_pct" or (key.startswith("do_") and key not in _STEPS and bool(value))


def read_processor_arguments(path: Path, names: Collection[str]) -> dict[str, Any]:
    """The arguments of an image processor that its file states; a warning names keys of the file that are not read.

    Args:
        path: of the file, or of its folder.
        names: of all arguments.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a JSON object, or asks for what no processor here does.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; a transformers folder holds {FILE}")
    if file.suffix != ".json":
        raise ValueError(
            f"{file} is not the file of an image processor; name a folder that holds {FILE}, or that file"
        )
    stated = {key: value for key, value in read_json(file).items() if value is not None}
    steps = {key: value for key, value in stated.items() if key not in _TYPE_KEYS}
    not_done = [f"{key} = {value}" for key, value in steps.items() if is_unsupported(key, value)]
    if not_done:
        raise ValueError(f"{file} asks for {', '.join(not_done)}, which this processor does not do")
    unread = sorted(stated.keys() - set(names) - _WITHOUT_EFFECT)
    if unread:
        warnings.warn(f"{file} states {listed(unread)}, which is not read", stacklevel=3)
    if _OLD_LABELS in stated:
        stated.setdefault("do_reduce_labels", stated[_OLD_LABELS])
    return {name: stated[name] for name in names if name in stated}


def processor_config(preprocessing: Preprocessing) -> dict[str, object]:
    """Of `BeitImageProcessor`, or of `CLIPImageProcessor` where the shorter side is resized.

    Args:
        preprocessing: with known mean and standard deviation.
    """
    p = preprocessing
    size = height_width(p.image_size or 224)
    resize, is_cropped = replace(p, image_size=size).resize_and_crop
    if resize is None or (p.resize is None and not p.squash and size[0] != size[1]):
        resize = size  # no processor makes images cover a rectangle
    crop = size if is_cropped and resize != size else None
    config: dict[str, object] = {
        "do_resize": resize != 0,
        "resample": PIL_FILTERS.index(p.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean or ()),
        "image_std": list(p.std or ()),
        "do_center_crop": crop is not None,
    }
    if crop:
        config["crop_size"] = {"height": crop[0], "width": crop[1]}
    if p.reduce_labels is not None:
        config["do_reduce_labels"] = p.reduce_labels
    if isinstance(resize, tuple):
        config["size"] = {"height": resize[0], "width": resize[1]}
    elif resize:
        config["size"] = {"shortest_edge": resize}
        return config | {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True}
    return config | {"image_processor_type": "BeitImageProcessor"}


def _statistics(
    stated: Mapping[str, Any], known: Preprocessing, problems: list[str]
) -> tuple[Triple | None, Triple | None]:
    """Mean and standard deviation for pixels in [0, 1]."""
    mean, std, factor = known.mean, known.std, stated.get("rescale_factor", 1 / 255)
    if not stated.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    elif "image_mean" in stated or "image_std" in stated:
        mean, std = as_triple(stated.get("image_mean")), as_triple(stated.get("image_std"))
    if not stated.get("do_rescale", True):
        factor = 1.0
    if type(factor) not in (int, float) or factor <= 0:
        problems.append(f"rescale_factor {shown(str(factor))} is not a positive number")
        return None, None
    if mean is None or std is None or min(std) <= 0:
        problems.append(
            f"image_mean {shown(str(stated.get('image_mean')))}, image_std {shown(str(stated.get('image_std')))} are not positive numbers, "
            "one or three each"
        )
        return None, None
    scale = 255 * factor
    return (mean[0] / scale, mean[1] / scale, mean[2] / scale), (
        std[0] / scale, std[1] / scale, std[2] / scale
    )  # fmt: skip


def _filter(number: object) -> str:
    return next((name for i, name in enumerate(PIL_FILTERS) if type(number) is int and i == number), "")


def _resize(stated: Mapping[str, Any], problems: list[str], *, is_clip: bool) -> ImageSize:
    """Shorter side, or (height, width); 0 for no resize."""
    if not stated.get("do_resize", True):
        return 0
    size = stated.get("size")
    if is_clip and isinstance(size, int) and size > 0:
        return size
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"} and as_size(size["shortest_edge"]):
        return int(size["shortest_edge"])
    return _sides("size", size, problems)


def _crop(stated: Mapping[str, Any], problems: list[str]) -> tuple[int, int] | None:
    """(height, width) of the crop; None for no crop."""
    if "do_center_crop" not in stated:
        problems.append("do_center_crop is not stated, and releases of transformers differ in it")
    if not stated.get("do_center_crop"):
        return None
    return _sides("crop_size", stated.get("crop_size"), problems)


def _sides(key: str, value: object, problems: list[str]) -> tuple[int, int]:
    """(height, width) of a number, a list or a table of both."""
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        value = [value["height"], value["width"]]
    size = as_size(value)
    if size is None:
        expected = "a side, [height, width], height and width, or shortest_edge"
        problems.append(f"{key} {shown(str(value))} is not supported: expected {expected}")
        return (1, 1)
    return height_width(size)
