"""Model cards: what weights are, how they were made and measured, and what they may be used for, in Markdown."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from beit.checkpoint.open import open_checkpoint, weights_file
from beit.checkpoint.translate import CheckpointInfo
from beit.config import flatten
from beit.files import write_text
from beit.imagenet_classes import class_names as names_of_list
from beit.metadata.architecture import CLASSIFIER, MIM, SEGMENTATION
from beit.metadata.files import TRAINING_IMAGES
from beit.preprocessing import Preprocessing
from beit.printable import printable
from beit.schema import SCHEMA, is_path
from beit.text_files import load_yaml, read_text
from beit.version import VERSION
from beit.zoo import path_of
from beit.zoo.table import PUBLISHED, Published

CARD = "card.md"
"""Name of the card in the folder of a run, an export or converted weights."""
_UNCHANGED = "<!-- As it was written, SHA-256 {}: replaced with the weights. Once edited, it stays. -->"
"""Last line of a card, with the digest of the lines above."""

_MAX_NAMES = 50
_NOT_IN_CARD = ("SAVE", "MODEL.RESUME")
_TAGS = {CLASSIFIER: "image-classification", SEGMENTATION: "image-segmentation"}
"""Kind of a model -> the name of its task on the Hugging Face hub; others extract features."""
_HUB_LICENSES = ("mit", "apache-2.0")
_USES = {
    CLASSIFIER: "The model names the class of an image. It knows the classes below and no others: an image of something "
    "else also gets one of them.",
    SEGMENTATION: "The model names the class of each pixel of an image. It knows the classes below and no others.",
}
_SEVERAL_LABELS = (
    "The model names the classes of an image: any number of the classes below, or none. It knows no others."
)
_OTHER_USE = "Fine-tuning and features. The model names no classes by itself."
_LIMITS = (
    "Its mistakes follow its training data. Measure it on images of your own use, for each group of people or things that "
    "matters there, before results have consequences."
)


def write_card(
    target: Path,
    source: str | Path,
    *,
    ema: bool | None = None,
    key: str | None = None,
    used: Preprocessing | None = None,
    class_names: tuple[str, ...] | None = None,
    measured: Mapping[str, str] | None = None,
) -> None:
    """Write the card of weights. A card that was edited stays; the new one is then `NAME.new.md`, and a warning says so.

    Args:
        target: file to write.
        source: the weights: a path, or a published name.
        ema, key: as in `load_pretrained`.
        used, class_names: that replace those stored with the weights.
        measured: further results, by what was measured.

    Raises:
        OSError: the card cannot be written, or as `path_of`.
        ValueError: the weights cannot be read.
    """
    file = path_of(source)
    state, info = open_checkpoint(file, ema=ema, key=key)
    info = replace(
        info, preprocessing=used or info.preprocessing, class_names=class_names or info.class_names
    )
    parameters = sum(array.size for array in state.values())
    text = card_text(info, parameters, _entry(source, weights_file(file)), measured or {})
    if target.exists() and not _is_unchanged(target):
        edited, target = target, target.with_suffix(".new.md")
        warnings.warn(f"{edited} was edited and stays; the card of the new weights is {target}", stacklevel=2)
    write_text(target, f"{text}\n{_last_line(text)}\n")


def _is_unchanged(card: Path) -> bool:
    try:
        text, _, last = read_text(card).removesuffix("\n").rpartition("\n")
    except ValueError:
        return False
    return last == _last_line(text)


def _last_line(text: str) -> str:
    return _UNCHANGED.format(hashlib.sha256(text.encode()).hexdigest())


def card_text(
    info: CheckpointInfo, num_parameters: int, entry: Published | None, measured: Mapping[str, str]
) -> str:
    """The card as Markdown, with the front matter that the Hugging Face hub reads.

    Args:
        info: of the weights.
        num_parameters: numbers in their tensors.
        entry: of the published checkpoint that they are; None for others.
        measured: further results, by what was measured.
    """
    trained = {} if entry else _trained(info.run_config)
    several = info.kind == CLASSIFIER and info.stated.is_multi_label
    start = str(trained.get("MODEL.PRETRAINED") or "")
    start_entry = _entry(start, Path(start)) if start else None
    title = entry.name if entry else str(trained.get("MODEL.NAME") or info.name)
    names = names_of_list(info.class_names) if isinstance(info.class_names, str) else info.class_names
    results = {_cell(name): _number(value) for name, value in info.results.items() if name != TRAINING_IMAGES}
    if entry:
        results = {name: f"{value:.4g} (as published)" for name, value in entry.metrics.items()}
    license_line, license_name = _license(entry, start, start_entry)
    front = [
        "---",
        *([f"license: {license_name}"] if license_name else []),
        f"pipeline_tag: {_TAGS.get(info.kind, 'image-feature-extraction')}",
        "tags: [beit]",
        "---",
    ]
    sections = {
        "Model": _table(("property", "value"), _facts(info, num_parameters)),
        "Intended use": f"{_SEVERAL_LABELS if several else _USES.get(info.kind, _OTHER_USE)} {_LIMITS}",
        "Classes": _classes(names, info.architecture.num_classes),
        "Data": _data(trained, info.results, entry),
        "Recipe": _recipe(trained, entry),
        "Metrics": _table(("metric", "value"), {**results, **measured})
        or "Not measured: the run had no validation images, or the weights do not state any result.",
        "License": license_line,
    }
    body = [f"## {name}\n\n{text}" for name, text in sections.items() if text]
    return "\n\n".join(["\n".join(front), f"# {_cell(title)}", *body]) + "\n"


def _facts(info: CheckpointInfo, num_parameters: int) -> dict[str, object]:
    found, images = info.architecture, info.preprocessing
    kind = "BEiT v2 masked image model" if info.kind == MIM[1] else info.kind.replace("_", " ")
    facts: dict[str, object] = {
        "kind": kind,
        "parameters": f"{num_parameters:,}",
        "blocks": found.depth,
        "width": found.width,
        "attention heads": found.num_heads,
        "patch": f"{found.patch_size} pixels" if found.patch_size else "",
        "image size": images.image_size or found.image_size or "",
        "resize and crop": images.describe_resize(),
        "resize filter": images.interpolation,
        "mean": images.mean or "",
        "standard deviation": images.std or "",
        "card written by": f"beit {VERSION}",
    }
    return {name: value for name, value in facts.items() if value}


def _classes(names: Sequence[str] | None, count: int) -> str:
    if not count:
        return ""
    if names is None:
        return f"{count}, without names."
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return f"{count}: {', '.join(map(_cell, names[:_MAX_NAMES]))}{more}."


def _data(trained: Mapping[str, object], results: Mapping[str, float], entry: Published | None) -> str:
    if entry:
        return f"See the page of the publisher: {entry.page}"
    if not trained:
        return "Not stated by the weights."
    images = results.get(TRAINING_IMAGES)
    count = f", {images:,.0f} training images" if images else ""
    path = Path(str(trained.get("DATA.DATA_PATH", ""))).name
    return f"{_cell(path)} ({_cell(str(trained.get('DATA.DATASET', '')))}){count}. Where the images come from is not known here: add it."


def _recipe(trained: Mapping[str, object], entry: Published | None) -> str:
    if entry:
        return f"See the page of the publisher: {entry.page}"
    changed = {
        key: Path(str(value)).name if is_path(key) else value
        for key, value in trained.items()
        if key in SCHEMA and key not in _NOT_IN_CARD and value not in (None, _plain(SCHEMA[key].default))
    }
    return _table(("config key", "value"), changed) if trained else "Not stated by the weights."


def _license(entry: Published | None, start: str, start_entry: Published | None) -> tuple[str, str]:
    """A sentence, and the license by its name on the hub; "" where none is stated."""
    if entry:
        name = entry.license.lower()
        return (
            f"{entry.license}, as stated by the publisher: {entry.page}",
            name if name in _HUB_LICENSES else "other",
        )
    begun = ""
    if start_entry:
        begun = (
            f" The training started from {start_entry.name}, whose license is {start_entry.license} "
            f"({start_entry.page})."
        )
    elif start:
        begun = f" The training started from {_cell(Path(start).name)}, whose license applies too."
    return f"Not stated: add one before you publish the weights.{begun}", ""


def _entry(source: str | Path, file: Path) -> Published | None:
    """The published checkpoint with this name or this file name; None if there is none, or several."""
    if str(source) in PUBLISHED:
        return PUBLISHED[str(source)]
    found = [entry for entry in PUBLISHED.values() if file.name in (entry.file_name, Path(entry.url).name)]
    return found[0] if len(found) == 1 else None


def _trained(text: str) -> dict[str, object]:
    """Values of the config of a run, by key; the text may be of another version, or no YAML in the file of a stranger."""
    try:
        content = load_yaml(text) if text else {}
    except ValueError:
        return {}
    return flatten(content) if isinstance(content, dict) else {}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _number(value: float) -> str:
    """A metric with four digits, a count with all of them."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _table(head: tuple[str, str], rows: Mapping[str, object]) -> str:
    """A Markdown table; "" without rows."""
    lines: Iterable[tuple[str, str]] = [(name, _cell(str(value))) for name, value in rows.items()]
    return (
        "\n".join(f"| {name} | {value} |" for name, value in [head, ("---", "---"), *lines]) if rows else ""
    )


def _cell(text: str) -> str:
    """A text that a file states, as one line without marks of Markdown or HTML."""
    return re.sub(r"([\\`*_|<>\[\]&~$])", r"\\\1", printable(text))
