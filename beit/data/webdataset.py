"""The webdataset format: tars in which the members of one name up to the first dot are one sample.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format"; the tars of timm on the Hugging Face hub have
`<key>.jpg`, `<key>.cls` (the label as text) and `<key>.json`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from beit.data.archives import Members, entries, is_hidden, safe_name
from beit.data.image_list import ImageList
from beit.data.images import EXTENSIONS
from beit.data.index_cache import Table, joined, names_of, remembered
from beit.data.shards import check_labels, find_shards
from beit.data.tars import Member, scan_tar
from beit.text_files import parse_json

_MAX_LABEL = 2**31 - 1
_MAX_LABEL_BYTES = 2**20  # of a .cls or .json member


def read_webdataset(
    root: Path, split: str, num_classes: int | None, *, labeled: bool = True
) -> ImageList | None:
    """The images of one split in the order of its tars and of their members; None where the split has no tars.

    An image is a member with one of `EXTENSIONS`. Its label is the number in the member `.cls` of its sample, or
    `label` in its member `.json`.

    Args:
        root: folder of the tars; see `find_shards` for their names.
        split: "train" or "val".
        num_classes: labels must be below this; None accepts any label.
        labeled: read the labels.

    Raises:
        ValueError: a tar is damaged (`scan_tar`), a sample has several images or no label, or a bad label.
        OSError: a tar cannot be read.
    """
    shards = find_shards(root, split, ".tar")
    if not shards:
        return None
    table = remembered(shards, f"webdataset {labeled}", lambda: _make_table(root, shards, labeled))
    names, labels, without = names_of(table["names"]), table["labels"], int(table["without"])
    if not names:
        raise ValueError(f"{root}: the tars of {split} have no images ({' '.join(sorted(EXTENSIONS))})")
    if labeled:
        check_labels(labels, num_classes, lambda index: str(root / names[index]))
    notes = [f"{root}: {without} samples of {split} left out, they have no image"] if without else []
    listed = ImageList.from_names(root, names, labels if labeled else None, notes=notes)
    return replace(listed, source=Members(tuple(shards), table["entries"]))


def _make_table(root: Path, shards: Sequence[Path], labeled: bool) -> Table:
    """Names, labels (none if not `labeled`) and entries of the images, and the number of samples without an image."""
    names: list[str] = []
    labels: list[int] = []
    tables, without = [], 0
    for number, shard in enumerate(shards):
        images, prefix = [], f"{shard.relative_to(root).as_posix()}/"
        with shard.open("rb", buffering=0) as file:
            for key, members in _samples(shard):
                image = _image(shard, key, members)
                if image is None:
                    without += 1
                    continue
                images.append(image)
                names.append(prefix + image.name)
                if labeled:
                    labels.append(_label(shard, key, members, file))
        tables.append(entries(images, number))
    return {
        "names": joined(names),
        "labels": np.array(labels, np.int64),
        "entries": np.concatenate(tables),
        "without": np.array(without),
    }


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Key and members of each sample, by their endings in lower case without the dot."""
    for key, group in itertools.groupby(_members(shard), _key):
        yield key, {member.name[len(key) + 1 :].lower(): member for member in group}


def _members(shard: Path) -> Iterator[Member]:
    for member in scan_tar(shard):
        name = safe_name(shard, member.name)
        if not is_hidden(name):
            yield member if name == member.name else member._replace(name=name)


def _key(member: Member) -> str:
    folder, slash, file = member.name.rpartition("/")
    return folder + slash + file.split(".", 1)[0]


def _image(shard: Path, key: str, members: dict[str, Member]) -> Member | None:
    found = [member for ending, member in members.items() if f".{ending.rsplit('.', 1)[-1]}" in EXTENSIONS]
    if len(found) > 1:
        raise ValueError(
            f"{shard}: the sample {key} has {len(found)} images, {found[0].name} and {found[1].name}; expected one"
        )
    return found[0] if found else None


def _label(shard: Path, key: str, members: dict[str, Member], file: BinaryIO) -> int:
    member = members.get("cls") or members.get("json")
    if member is None or member.size > _MAX_LABEL_BYTES:
        raise ValueError(
            f"{shard}: the sample {key} has no label; expected a member {key}.cls with the number of the class"
        )
    file.seek(member.start)
    text = file.read(member.size)
    try:
        value = int(text) if text.isdigit() else parse_json(text.decode())
        value = value["label"] if isinstance(value, dict) else value
        if type(value) is not int or abs(value) > _MAX_LABEL:
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{shard}: {member.name} is {text[:40]!r}; expected the number of the class, in .json under the key label"
        ) from None
    return value
