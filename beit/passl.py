"""PASSL's interface to BEiT over the models of this package: `get_config`, `build_backbone`, `build_head`.

Files of PASSL load into these models by `set_dict`: the names of all parameters are PASSL's.
Source: PASSL, passl_v110: utils/config.py, modeling/backbones/beit.py, beit_ft.py, beit_pt.py, modeling/heads/beit_head.py.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
from paddle import nn
from yacs.config import CfgNode

from beit.beit import Beit
from beit.config_files import config_folder
from beit.layers.init import make_head
from beit.models.mim import BeitForMaskedImageModeling
from beit.printable import did_you_mean
from beit.text_files import load_yaml, read_text

# B images, D width, K classes, M masked patches

_COMMON: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "in_chans": 3,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "drop_rate": 0.0,
    "attn_drop_rate": 0.0,
    "drop_path_rate": 0.0,
    "init_values": None,
    "use_abs_pos_emb": True,
    "use_rel_pos_bias": False,
    "use_shared_rel_pos_bias": False,
}
_BACKBONES: dict[str, dict[str, Any]] = {
    "Beit": _COMMON | {"use_mean_pooling": True},
    "VisionTransformerForFinetune": _COMMON | {"qkv_bias": False, "qk_scale": None, "use_mean_pooling": True},
    "VisionTransformerForMaskedImageModeling": _COMMON
    | {"qk_scale": None, "vocab_size": 8192, "attn_head_dim": None},
}
"""Class of PASSL -> its arguments and their defaults."""
_OURS = {"in_chans": "in_channels", "attn_head_dim": "head_dim"}
"""Argument of PASSL -> argument of `Beit`."""
_HEADS: dict[str, dict[str, Any]] = {
    "BEiTClsHead": {"in_channels": 2048, "num_classes": 1000, "init_scale": 0.001},
    "BEiTFTHead": {"in_channels": None, "num_classes": None, "init_scale": 0.001},
    "BEiTPTHead": {"in_channels": None, "num_classes": None, "init_scale": 0.001},
}
_FRACTIONS = ("init_values", "qk_scale")
"""Arguments with the default None that need not be whole numbers."""
_LINEAR = {"BEiTClsHead": "fc_cls", "BEiTFTHead": "head"}
"""Head of PASSL -> name of its linear layer in PASSL's files."""
_MISSPELLED = {"BeitWrapper": "BEiTWrapper", "BeitClsHead": "BEiTClsHead"}
"""Class names in PASSL's files that PASSL does not have -> the classes that are meant."""
_HALF = ([[0.5] * 3] * 2, [[127.5] * 3] * 2)
"""Mean and standard deviation of the images of PASSL's published weights, for pixels up to 1 and up to 255."""


def build_backbone(architecture: Mapping[str, Any]) -> Beit:
    """The encoder of a section `model.architecture`: images `[B, 3, height, width]` to features `[B, D]`.

    `VisionTransformerForMaskedImageModeling` gives the pre-training model, which is called with images and a mask.

    Args:
        architecture: `name` of a class of PASSL, and arguments of that class; those left out have PASSL's defaults.

    Raises:
        ValueError: no such class or argument, a value of another type, or as the model.
    """
    name, values = _arguments(architecture, _BACKBONES, "model.architecture")
    side = values.pop("img_size")
    values["init_values"] = values["init_values"] or 0.0
    ours = {_OURS.get(key, key): value for key, value in values.items()} | {"image_size": (side, side)}
    if name == "VisionTransformerForMaskedImageModeling":
        return BeitForMaskedImageModeling(**ours)
    return Beit(num_classes=0, **ours)


def build_head(head: Mapping[str, Any]) -> nn.Layer:
    """The head of a section `model.head`: features `[B, D]` to logits `[B, K]`.

    `BEiTPTHead` takes the logits `[M, K]` and labels `[M]` of masked patches and returns `loss` and `mlm_acc` (percent).

    Args:
        head: `name` of a class of PASSL, and arguments of that class; those left out have PASSL's defaults.

    Raises:
        ValueError: no such class or argument, a value of another type, or the number of channels or classes is missing.
    """
    name, values = _arguments(head, _HEADS, "model.head")
    if name not in _LINEAR:
        return _PretrainingHead()
    missing = [key for key, value in values.items() if value is None]
    if missing:
        raise ValueError(f"model.head: {name} needs {' and '.join(missing)}")
    return _Classifier(_LINEAR[name], **values)


def get_config(fname: str | Path, overrides: Sequence[str] | None = None) -> CfgNode:
    """A YAML file of PASSL as a tree with attributes: `cfg.model.architecture`, `cfg.model.head`.

    Warnings name the known mistakes of PASSL's files: class names that do not exist, which are corrected; crops of
    another size than the model's; statistics that are not those of the published weights.

    Args:
        fname: a file, or the path of a file of PASSL that comes with this package (`configs/beit/…`).
        overrides: `key.key=value` each; the keys must exist, items of lists are counted from 0.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a YAML file with sections, or a section is something else; an override is not `key=value`, or
            its key does not exist.
    """
    path = Path(fname)
    if not path.is_file():
        path = config_folder().parent / path
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in (config_folder() / "beit").glob("*.yaml")))
        raise FileNotFoundError(f"config file {fname} does not exist; configs/beit has {names}")
    text = read_text(path)
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a valid YAML file: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected sections such as model:")
    content = _parsed(content)
    for override in overrides or ():
        _override(content, override)
    try:
        mistakes = list(_mistakes(content))
        config = CfgNode(content)
    except (ValueError, AssertionError) as error:  # yacs asserts the types of values
        raise ValueError(f"{path}: {error}") from None
    for mistake in mistakes:
        warnings.warn(f"{path}: {mistake}", stacklevel=2)
    return config


class _Classifier(nn.Layer):
    """A linear layer under the name that it has in PASSL's files."""

    def __init__(self, name: str, in_channels: int, num_classes: int, init_scale: float) -> None:
        super().__init__()
        self._name = name
        self.add_sublayer(name, make_head(in_channels, num_classes, init_scale))

    def forward(self, features: paddle.Tensor) -> paddle.Tensor:
        """Logits `[B, K]` of features `[B, D]`."""
        return getattr(self, self._name)(features)


class _PretrainingHead(nn.Layer):
    def forward(self, logits: paddle.Tensor, labels: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Cross-entropy and accuracy in percent of logits `[M, K]` and labels `[M]`."""
        correct = (logits.argmax(-1) == labels).astype("float32")
        return {"loss": nn.functional.cross_entropy(logits, labels), "mlm_acc": 100 * correct.mean()}


def _arguments(
    section: Mapping[str, Any], classes: Mapping[str, dict[str, Any]], where: str
) -> tuple[str, dict[str, Any]]:
    """Class name and complete arguments of a section."""
    if not isinstance(section, Mapping):
        raise ValueError(f"{where}: got {section!r:.80}; expected a section with name and arguments")
    name = str(section.get("name"))
    if name not in classes:
        raise ValueError(f"{where}: name is {name}; expected one of {', '.join(classes)}")
    for key in section:
        if key != "name" and key not in classes[name]:
            hint = did_you_mean(key, classes[name]) or f"it has {', '.join(classes[name])}"
            raise ValueError(f"{where}: {name} has no argument {key}; {hint}")
    values = classes[name] | {key: value for key, value in section.items() if key != "name"}
    for key, default in classes[name].items():
        if values[key] is not None or default is not None:
            _check_type(f"{where}: {key}", values[key], float if key in _FRACTIONS else type(default))
    return name, values


def _check_type(name: str, value: Any, kind: type) -> None:
    """Refuse a value that is not of the kind: bool, float, or else a whole number of 1 or more."""
    if kind is bool:
        is_valid, expected = isinstance(value, bool), "True or False"
    elif kind is float:
        is_valid, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    else:
        is_valid, expected = type(value) is int and value >= 1, "a whole number of 1 or more"
    if not is_valid:
        raise ValueError(f"{name} = {value!r:.80}; expected {expected}")


def _parsed(value: Any) -> Any:
    """Strings that are Python literals as their values, as PASSL reads them: `4e-3`, which YAML takes for a word."""
    if isinstance(value, dict):
        return {key: _parsed(item) for key, item in value.items()}
    return _literal(value) if isinstance(value, str) else value


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _override(content: dict[str, Any], override: str) -> None:
    """Replace the value of an existing key by that of `key.key=value`."""
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    node: Any = content
    try:
        for key in parents:
            node = node[int(key) if isinstance(node, list) else key]
        last_key = int(last) if isinstance(node, list) else last
        node[last_key]  # a new key would have no effect
    except (KeyError, IndexError, ValueError, TypeError):
        raise ValueError(f"override {override!r}: there is no key {path}") from None
    if not equals:
        raise ValueError(f"override {override!r}; expected key.key=value")
    node[last_key] = _literal(text)


def _section(parent: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A section of a section; empty if it is missing.

    Raises:
        ValueError: it is something else.
    """
    found: Any = parent
    for number, key in enumerate(keys, start=1):
        found = found.get(key) or {}
        if not isinstance(found, dict):
            raise ValueError(f"{'.'.join(keys[:number])} is {found!r:.80}; expected a section")
    return found


def _mistakes(content: dict[str, Any]) -> Iterator[str]:
    """Correct the class names of a file; yields a sentence for each mistake found in it.

    Raises:
        ValueError: a section, or a step of `transforms`, is something else.
    """
    for keys in (("model",), ("model", "head")):
        section, where = _section(content, *keys), ".".join(keys)
        name = str(section.get("name"))
        if name in _MISSPELLED:
            section["name"] = _MISSPELLED[name]
            yield f"{where}.name is {name}; PASSL's class is {section['name']}, which is used"
    architecture = _section(content, "model", "architecture")
    size = architecture.get("img_size", _COMMON["img_size"])
    is_pretraining = architecture.get("name") == "VisionTransformerForMaskedImageModeling"
    for split in _section(content, "dataloader"):
        steps = _section(content, "dataloader", split, "dataset").get("transforms") or ()
        if not isinstance(steps, list | tuple) or not all(isinstance(step, dict) for step in steps):
            raise ValueError(f"dataloader.{split}.dataset.transforms: expected a list of sections with names")
        for step in steps:
            kind = str(step.get("name", ""))
            where = f"dataloader.{split}, {kind}"
            if kind in ("RandomResizedCrop", "CenterCrop") and step.get("size") not in (size, [size, size]):
                yield f"{where}: crops have {step.get('size')} pixels, the model takes {size}"
            statistics = [step.get("mean"), step.get("std")]
            if kind.startswith("Normalize") and not is_pretraining and statistics not in _HALF:
                yield f"{where}: mean and std are {statistics}; those of PASSL's published weights are 0.5"
