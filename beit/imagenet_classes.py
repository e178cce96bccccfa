"""Class names of ImageNet-1k and of the 21,841 ImageNet-21k classes, in the order of the published heads.

The longer list is that of the 21,843 synsets of ImageNet-21k without "picture, image, icon, ikon" and "bleacher",
for which the published heads have no output.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources

from beit.printable import did_you_mean

CLASS_LISTS = {"imagenet-1k": "imagenet_1k.txt", "imagenet-21k": "imagenet_21k.txt"}
"""List name to its file in beit/class_names, lines `synset<TAB>lemmas` (WordNet; its license is beside them)."""
_LENGTHS = {"imagenet-1k": 1000, "imagenet-21k": 21841}


def class_names(name: str) -> tuple[str, ...]:
    """Class names of a list, `imagenet-1k` (1,000) or `imagenet-21k` (21,841), each with all its lemmas.

    Two classes may have the same name ("crane" the bird and the machine) but never the same synset.

    Raises:
        ValueError: there is no list of this name.
    """
    return tuple(lemmas for _, lemmas in _read(name))


def synsets(name: str) -> tuple[str, ...]:
    """WordNet identifiers (`n01440764`) of the classes of a list, which are ImageNet's folder names.

    Raises:
        ValueError: there is no list of this name.
    """
    return tuple(synset for synset, _ in _read(name))


def from_synsets(names: Sequence[str]) -> tuple[str, ...]:
    """Replace synset identifiers, the names of ImageNet's class folders, by their lemmas.

    The names are returned unchanged unless all of them are identifiers.
    """
    known = dict(_read("imagenet-21k")) | dict(_read("imagenet-1k"))
    return tuple(known[name] for name in names) if all(name in known for name in names) else tuple(names)


def first_synonym(name: str) -> str:
    """The first lemma of a WordNet class, which is short enough for figures and tables; other names stay."""
    return name.split(", ")[0] if ", " in name and name in _lemmas() else name


@cache
def _lemmas() -> frozenset[str]:
    return frozenset(lemmas for name in CLASS_LISTS for _, lemmas in _read(name))


@cache
def _read(name: str) -> tuple[tuple[str, str], ...]:
    if name not in CLASS_LISTS:
        hint = did_you_mean(name, CLASS_LISTS) or f"there are {', '.join(CLASS_LISTS)}"
        raise ValueError(f"no list of class names is called {name!r}; {hint}")
    folder = resources.files("beit") / "class_names"
    text = (folder / CLASS_LISTS[name]).read_text(encoding="utf-8")
    pairs = (line.split("\t", 1) for line in text.splitlines())
    rows = tuple((synset, lemmas) for synset, lemmas in pairs)
    assert len(rows) == _LENGTHS[name]
    return rows
