"""From a YAML file and options to one frozen config tree; `beit.flags` makes options of command line flags."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from yacs.config import CfgNode

from beit.config_files import config_path, is_shipped
from beit.printable import printable
from beit.schema import RENAMED, RETIRED, SCHEMA, clean_legacy, shorten
from beit.text_files import load_yaml, read_text

_MAX_FILES = 64
"""Largest number of BASE files of one config, each counted as often as it is included."""

_SWITCHES = {
    **dict.fromkeys(("TRAIN.BCE_THRESHOLD", "TRAIN.BCE_SUM"), "TRAIN.LOSS"),
    **dict.fromkeys(("MODEL.LORA.ALPHA", "MODEL.LORA.TARGETS", "MODEL.LORA.BLOCKS"), "MODEL.LORA.RANK"),
    **dict.fromkeys(
        ("TRAIN.DISTILL.KIND", "TRAIN.DISTILL.WEIGHT", "TRAIN.DISTILL.TEMPERATURE"), "TRAIN.DISTILL.TEACHER"
    ),
}
"""Key -> key that switches it on: while that one has its default, the first one has no effect."""


def get_config(path: str | Path | None = None, opts: Sequence[Any] | None = None) -> CfgNode:
    """Build the frozen config tree: defaults, then the files of `BASE`, then the file, then `opts`.

    Args:
        path: YAML file, or the name of a config that comes with the package (`beit_base_patch16_224`, see
            `config_path`); None for the defaults.
        opts: flat list `[KEY, value, KEY, value, ...]` as in yacs, e.g. `["MODEL.DEPTH", 3]`; strings are parsed as
            YAML.

    Raises:
        FileNotFoundError: the file or a file named by `BASE` does not exist.
        ValueError: not YAML, an unknown key (the message names the nearest), a wrong type or value, `BASE` files
            that include each other, or keys that contradict each other.
    """
    values = {key: entry.default for key, entry in SCHEMA.items()}
    if path is not None:
        _merge_file(values, config_path(path), (), [])
    if opts:
        _merge_options(values, opts)
    _check_relations(values)
    return _tree(values)


def config_of_text(text: str, name: str) -> CfgNode:
    """The frozen config tree of the YAML that `dump` writes.

    Args:
        text: YAML; it may not include other files.
        name: what to call it in messages.

    Raises:
        ValueError: as `get_config`.
    """
    values = {key: entry.default for key, entry in SCHEMA.items()}
    content = parse_yaml(text, name)
    if content.pop("BASE", None):
        raise ValueError(f"{name}: this config cannot include other files with BASE")
    _assign_all(values, content, name)
    _check_relations(values)
    return _tree(values)


def with_options(config: CfgNode, opts: Sequence[Any]) -> CfgNode:
    """A copy of the config with some values replaced.

    Raises:
        ValueError: as `get_config`.
    """
    values = {key: value_of(config, key) for key in SCHEMA}
    _merge_options(values, opts)
    _check_relations(values)
    return _tree(values)


def value_of(config: CfgNode, key: str) -> Any:
    """The value of a key with dots, such as "TRAIN.OPTIMIZER.EPS"."""
    node: Any = config
    for name in key.split("."):
        node = node[name]
    return node


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of nested sections by key with dots."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def dump(config: CfgNode) -> str:
    """The resolved config as YAML; `get_config` reads it back to the same tree."""
    return yaml.safe_dump(_plain(config), sort_keys=False, allow_unicode=True)


def batch_size_eval(config: CfgNode) -> int:
    """Images per rank in evaluation."""
    return int(config.DATA.BATCH_SIZE_EVAL or config.DATA.BATCH_SIZE)


def head_dim(config: CfgNode) -> int:
    """Channels per attention head of the encoder."""
    return int(config.MODEL.ATTN_HEAD_SIZE or config.MODEL.EMBED_DIM // config.MODEL.NUM_HEADS)


def image_hw(config: CfgNode) -> tuple[int, int]:
    """Input height and width in pixels."""
    size = config.DATA.IMAGE_SIZE
    return (size, size) if isinstance(size, int) else tuple(size)


# ---------------------------------------------------------------------------------------------- merging


def _merge_file(values: dict[str, Any], path: Path, parents: tuple[Path, ...], merged: list[Path]) -> None:
    """Merge a file into `values`, its BASE files first. `merged` collects all files, to bound their number."""
    path = path.resolve()
    if path in parents:
        chain = " -> ".join(str(file) for file in (*parents[parents.index(path) :], path))
        raise ValueError(f"{path}: BASE files include each other: {chain}")
    merged.append(path)
    if len(merged) > _MAX_FILES:
        raise ValueError(f"{path}: more than {_MAX_FILES} BASE files are included; name each of them once")
    content = parse_yaml(read_text(path), str(path))
    bases = content.pop("BASE", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ValueError(f"{path}: BASE is {shorten(bases)}; expected file names relative to this file")
    for base in filter(None, bases):  # PaddleViT writes BASE: ['']
        target = path.parent / base
        if not target.is_file():
            raise FileNotFoundError(f"{path}: BASE file {target} does not exist")
        _merge_file(values, target, (*parents, path), merged)
    _assign_all(values, content, str(path))


def _assign_all(values: dict[str, Any], content: Mapping[Any, Any], source: str) -> None:
    seen: dict[str, tuple[str, Any]] = {}
    for key, value in _leaves(content, source):
        name = RENAMED.get(key, key)
        other, before = seen.get(name, ("", None))
        if other == key:  # once in a section and once with dots
            raise ValueError(f"{source}: {key} is given twice")
        _assign(values, key, value, source)
        if other and values[name] != before:
            raise ValueError(f"{source}: {other} and {key} are one key with two values; keep one of them")
        seen[name] = key, values.get(name)


def _merge_options(values: dict[str, Any], opts: Sequence[Any]) -> None:
    if len(opts) % 2:
        pairs = zip(opts[::2], opts[1::2], strict=False)  # the last item has no partner
        lone = next((key for key, value in pairs if str(value) in SCHEMA), opts[-1])
        raise ValueError(f"options come as KEY VALUE or KEY=VALUE, and {shorten(lone)} has no value")
    for key, value in zip(opts[::2], opts[1::2], strict=True):
        _assign(values, str(key), _parse_text(str(key), value), "options")


def _parse_text(key: str, value: Any) -> Any:
    """Parse a value from the command line as YAML, except for keys whose value is text."""
    entry = SCHEMA.get(key)
    if not isinstance(value, str) or (entry and entry.is_text):
        return value
    try:
        return load_yaml(value)
    except ValueError:
        return value


def _assign(values: dict[str, Any], key: str, value: Any, source: str) -> None:
    if key in RETIRED:
        accepted, reason = RETIRED[key]
        if accepted is not None and value not in accepted:
            raise ValueError(f"{source}: {key} = {shorten(value)} is not supported: {reason}")
        warnings.warn(f"{source}: {key} is ignored: {reason}", stacklevel=2)
        return
    if key in RENAMED:
        warnings.warn(f"{source}: {key} is now called {RENAMED[key]}", stacklevel=2)
        key = RENAMED[key]
    if key not in SCHEMA:
        raise ValueError(f"{source}: unknown key {printable(key)}{_nearest(key)}")
    entry = SCHEMA[key]
    try:
        values[key] = entry.check(clean_legacy(key, value if entry.is_text else _tuple_as_list(value)))
        if key == "MODEL.NUM_CLASSES" and not is_shipped(source):
            values["MODEL.NUM_CLASSES_FROM_DATA"] = False
    except ValueError as expected:
        raise ValueError(
            f"{source}: {key} = {shorten(value)}, expected {expected} ({entry.meaning})"
        ) from None


def _tuple_as_list(value: Any) -> Any:
    """`(0.5, 0.5)`, which YAML reads as a string, as the list `[0.5, 0.5]`; other values as they are."""
    if isinstance(value, str) and value.startswith("(") and value.endswith(")"):
        try:
            return load_yaml(f"[{value[1:-1]}]")
        except ValueError:
            return value
    return value


def _nearest(key: str) -> str:
    leaves = {name.rsplit(".", 1)[-1]: name for name in SCHEMA}
    near = difflib.get_close_matches(key, SCHEMA, n=1, cutoff=0.6)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(key.rsplit(".", 1)[-1], leaves, n=1)]
    return f"; did you mean {near[0]}?" if near else "; every key stands in beit/schema.py"


def _check_relations(values: Mapping[str, Any]) -> None:
    """Raise ValueError for keys that contradict each other."""
    size, patch = values["DATA.IMAGE_SIZE"], values["MODEL.PATCH_SIZE"]
    for side in (size,) if isinstance(size, int) else size:
        if side % patch or side < patch:
            below, above = max(side // patch, 1) * patch, (side // patch + 1) * patch
            raise ValueError(
                f"DATA.IMAGE_SIZE = {size} is not a multiple of MODEL.PATCH_SIZE = {patch}; use {below} or {above}"
            )
    width, heads = values["MODEL.EMBED_DIM"], values["MODEL.NUM_HEADS"]
    if values["MODEL.ATTN_HEAD_SIZE"] is None and width % heads:
        raise ValueError(
            f"MODEL.EMBED_DIM = {width} is not a multiple of MODEL.NUM_HEADS = {heads}; "
            "change one of them or set MODEL.ATTN_HEAD_SIZE"
        )
    if values["TRAIN.FREEZE_LAYERS"] > values["MODEL.DEPTH"] + 1:
        raise ValueError(
            f"TRAIN.FREEZE_LAYERS = {values['TRAIN.FREEZE_LAYERS']}, expected at most MODEL.DEPTH + 1 = "
            f"{values['MODEL.DEPTH'] + 1} (embedding and blocks; the head stays trainable)"
        )
    if values["MODEL.LORA.RANK"] and values["TRAIN.FREEZE_LAYERS"]:
        raise ValueError(
            f"MODEL.LORA.RANK = {values['MODEL.LORA.RANK']} freezes all blocks: set TRAIN.FREEZE_LAYERS to 0, and choose "
            "the adapted blocks with MODEL.LORA.BLOCKS"
        )
    beyond = [number for number in values["MODEL.LORA.BLOCKS"] if number > values["MODEL.DEPTH"]]
    if beyond:
        raise ValueError(
            f"MODEL.LORA.BLOCKS: blocks {beyond}, the model has blocks 1 to {values['MODEL.DEPTH']}"
        )
    if values["TASK"] == "multilabel" and values["TRAIN.LOSS"] != "bce":
        raise ValueError(f"TASK: multilabel needs TRAIN.LOSS = bce; it is {values['TRAIN.LOSS']}")
    for key, switch in _SWITCHES.items():
        if values[key] != SCHEMA[key].default and values[switch] == SCHEMA[switch].default:
            raise ValueError(
                f"{key} = {values[key]} has no effect with {switch} = {values[switch]}; set {switch}, or leave {key} out"
            )
    for key in ("TRAIN.SCALE", "TRAIN.RATIO", "TRAIN.CUTMIX_MINMAX"):
        if values[key] is not None and values[key][0] > values[key][1]:
            raise ValueError(f"{key} = {values[key]}, expected (low, high) with low <= high")


# ------------------------------------------------------------------------------------------- YAML and tree


def parse_yaml(text: str, path: str) -> dict[Any, Any]:
    """Parse the YAML of a config, from a file or from inside of weights, into nested sections. It need not be trusted.

    Args:
        text: YAML without aliases.
        path: what to call it in messages.

    Raises:
        ValueError: it is not valid YAML, or not a mapping of sections.
    """
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path} is not a valid YAML file: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds {type(content).__name__}, expected sections such as DATA: and MODEL:")
    if "model" in content and "MODEL" not in content:
        raise ValueError(
            f"{path} is a config of PASSL: beit.passl.get_config reads its model. Train and evaluate with a config of "
            "this package, such as -cfg=beit_base_patch16_224 (docs/from-passl.md)"
        )
    return content


def _leaves(content: Mapping[Any, Any], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"TRAIN": {"BASE_LR": 1}}` -> `("TRAIN.BASE_LR", 1)`."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        is_section = any(known.startswith(f"{key}.") for known in (*SCHEMA, *RENAMED, *RETIRED))
        if isinstance(value, dict):
            if key in SCHEMA:
                raise ValueError(f"{path}: {key} is a section here, expected a value ({SCHEMA[key].meaning})")
            if not is_section:
                raise ValueError(f"{path}: unknown section {printable(key)}{_nearest(key)}")
            yield from _leaves(value, path, f"{key}.")
        elif not (is_section and value is None):  # an empty section sets nothing
            if is_section:
                raise ValueError(f"{path}: {key} = {shorten(value)}, expected a section with keys")
            yield key, value


def _tree(values: Mapping[str, Any]) -> CfgNode:
    tree = CfgNode()
    for key, value in values.items():
        *sections, leaf = key.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, CfgNode())
        node[leaf] = value
    tree.freeze()
    return tree


def _plain(node: CfgNode) -> dict[str, Any]:
    return {
        name: _plain(value)
        if isinstance(value, CfgNode)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in node.items()
    }
