"""Whether files beside the weights contradict each other: neither of two such files takes precedence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from beit.containers.errors import CheckpointError, shown
from beit.metadata.precedence import CLASS_NAMES, Difference, differences, read_preprocessing
from beit.metadata.pretrained_cfg import pretrained_cfg, read_pretrained_cfg
from beit.metadata.processor_config import FILE, PROCESSOR
from beit.preprocessing import Preprocessing

_NOT_COMPARED = ("source", "pooling")
_CROP = ("crop_pct", "squash", "resize", "center_crop")
"""Fields of resize and crop, which are compared as soon as one of them is known."""


def check_agreement(
    stated: Mapping[str, object],
    file: Path,
    others: Mapping[str, object],
    preprocessing: Preprocessing | None,
    files: tuple[str, str],
) -> None:
    """Refuse values of `NAME.pretrained_cfg.json` that differ from those of the other files beside the weights.

    Args:
        stated: content of the file.
        file: its path.
        others: what the other files state.
        preprocessing: that of the run's config, if it is one of them.
        files: names of the other files: `config.yaml` and `class_names.txt`, or `config.json` and
            `preprocessor_config.json`.

    Raises:
        CheckpointError: a value differs.
    """
    config, second = files
    known = preprocessing or read_preprocessing(others, Preprocessing(interpolation=""))
    place = FILE if PROCESSOR in others else config
    found = [(place, difference) for difference in preprocessing_differences(stated, known)]
    names = second if second != FILE else config
    found += [(names if one[0] == CLASS_NAMES else config, one) for one in differences(stated, others)]
    for name, (what, own, other) in found:
        raise CheckpointError(
            f"{file} and {name} beside it state different values of {what}: {shown(str(own))} and {shown(str(other))}. "
            "Correct or remove one of the two files"
        )


def preprocessing_differences(stated: Mapping[str, object], known: Preprocessing) -> list[Difference]:
    """The fields of a known preprocessing for which a `pretrained_cfg` states another value.

    Args:
        stated: metadata that may have a `pretrained_cfg`.
        known: fields that it does not know are not compared.
    """
    content = stated.get("pretrained_cfg")
    if not isinstance(content, Mapping):
        return []
    sizeless = replace(known, image_size=None)  # else its image size is kept
    new = read_pretrained_cfg(content, sizeless)
    old = read_pretrained_cfg(pretrained_cfg(known), sizeless)  # in the same form
    if new.image_size is None:
        new = replace(new, image_size=old.image_size)
    pairs = [(field.name, getattr(new, field.name), getattr(old, field.name)) for field in fields(known)]
    return [pair for pair in pairs if pair[1] != pair[2] and _is_known(known, pair[0])]


def _is_known(preprocessing: Preprocessing, name: str) -> bool:
    if name in _CROP:
        return any(value is not None for value in (preprocessing.crop_pct, preprocessing.resize))
    return name not in _NOT_COMPARED and getattr(preprocessing, name) not in (None, "")
