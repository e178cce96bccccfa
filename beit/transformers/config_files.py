"""The fields of a `BeitConfig`, read from transformers' `config.json` or derived from the tensors of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit import text_files
from beit.checkpoint.open import weights_file
from beit.checkpoint.translate import Checkpoint
from beit.data.ade20k import CLASS_NAMES
from beit.metadata.architecture import BACKBONE, CLASSIFIER, MIM, SEGMENTATION
from beit.metadata.files import WEIGHT_FILES
from beit.metadata.folders import folder_files
from beit.zoo import path_of
from beit.zoo.table import PUBLISHED

CONFIG_FILE = "config.json"
MODEL_TYPE = "beit"
PUBLISHER = "huggingface"
_KINDS = (CLASSIFIER, BACKBONE, *MIM, SEGMENTATION)


def read_config(path: Path) -> dict[str, Any]:
    """The fields in a `config.json` of transformers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no JSON object, or that of another type of model.
    """
    content = text_files.read_json(path)
    kind = content.get("model_type", MODEL_TYPE)
    if kind != MODEL_TYPE:
        raise ValueError(f"{path} is of a model of the type {kind!r}; expected {MODEL_TYPE!r}")
    return content


def values_of_weights(source: str | Path, opened: Checkpoint) -> dict[str, Any]:
    """The fields of the config of weights: of transformers' `config.json` beside them, else derived from their tensors.

    Args:
        source: where the weights come from: folder, file or published name.
        opened: the weights.

    Raises:
        ValueError: the weights are of another kind of model, or a value of the file is wrong.
    """
    info = opened.info
    if info.kind not in _KINDS:
        raise ValueError(f"{info.name} holds a {info.kind} model, which is no BEiT encoder")
    file = weights_file(path_of(source))
    beside = file.with_name(CONFIG_FILE)
    if beside.is_file() and (Path(source).is_dir() or file.name.startswith(WEIGHT_FILES)):
        values = read_config(beside)
        if "model_type" in values:  # timm's config.json has none
            return values
    values = dict(folder_files(info, PUBLISHER)[0][CONFIG_FILE])
    if info.publisher == PUBLISHER:
        del values["layer_norm_eps"]  # transformers' files have its default
    if info.kind == SEGMENTATION and str(source) in PUBLISHED:
        values["id2label"] = dict(enumerate(CLASS_NAMES))  # all published heads are trained on ADE20K
    if info.kind in MIM:
        values["use_mean_pooling"] = True  # the norm of pre-training acts on all tokens; it pools nothing
    return values
