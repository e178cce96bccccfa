"""Names of the classes of ImageNet-1k and of the 21,841-class list, in the order of the published heads."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from importlib import resources

DROPPED_SYNSETS = {9205: "n03931044", 15027: "n09859684"}
"""Position (from 0) in the 21,843-synset list of ImageNet-21k -> synset without an output in published BEiT heads.

They are "picture, image, icon, ikon" and "bleacher". What stays, in its order, is the list of 21,841.
Source: the positions that transformers' conversion of BEiT deletes.
"""
CLASS_LISTS = {"imagenet-1k": "imagenet_1k.txt", "imagenet-21k": "imagenet_21k.txt"}
"""Name of a list -> its file in beit/data/class_names, lines `synset<TAB>lemmas` (WordNet, license beside them)."""
_LENGTHS = {"imagenet-1k": 1000, "imagenet-21k": 21841}


def class_names(name: str) -> tuple[str, ...]:
    """Names of the classes of a list, `imagenet-1k` (1,000) or `imagenet-21k` (21,841), each with all its lemmas.

    A name may stand for two synsets ("crane" the bird and the machine); `synsets` tells them apart.

    Raises:
        ValueError: there is no such list.
    """
    return tuple(lemmas for _, lemmas in _read(name))


def synsets(name: str) -> tuple[str, ...]:
    """WordNet identifiers (`n01440764`) of the classes of a list; ImageNet's folders are called so.

    Raises:
        ValueError: there is no such list.
    """
    return tuple(synset for synset, _ in _read(name))


def from_synsets(names: Sequence[str]) -> tuple[str, ...]:
    """The names with those that are synset identifiers, as ImageNet's class folders have, replaced by their lemmas.

    Nothing is replaced unless all are identifiers.
    """
    known = dict(_read("imagenet-21k")) | dict(_read("imagenet-1k"))
    return tuple(known[name] for name in names) if all(name in known for name in names) else tuple(names)


@cache
def _read(name: str) -> tuple[tuple[str, str], ...]:
    if name not in CLASS_LISTS:
        near = difflib.get_close_matches(name, CLASS_LISTS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"no list of class names is called {name!r}; there are {', '.join(CLASS_LISTS)}{hint}"
        )
    folder = resources.files("beit.data") / "class_names"
    text = (folder / CLASS_LISTS[name]).read_text(encoding="utf-8")
    rows = tuple(tuple(line.split("\t", 1)) for line in text.splitlines())
    assert len(rows) == _LENGTHS[name]
    return rows  # type: ignore[return-value]  # each line has one tabulator
