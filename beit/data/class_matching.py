"""The classes of weights and those of data, matched by their names."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from beit.data.folders import shortened_list
from beit.data.image_list import ImageList
from beit.imagenet_classes import class_names as names_of_list
from beit.imagenet_classes import from_synsets, synsets
from beit.metadata.class_names import ClassNames

Item = TypeVar("Item")


@dataclass(frozen=True)
class KnownClasses:
    """The classes of a trained head.

    Args:
        names: in the order of the outputs, or the name of a published list.
        source: where the names come from, for messages.
    """

    names: ClassNames
    source: str

    @property
    def spelled_out(self) -> tuple[str, ...]:
        """The names in the order of the outputs, those of a published list written out."""
        return names_of_list(self.names) if isinstance(self.names, str) else self.names

    def order(self, data: Sequence[str]) -> tuple[int, ...] | None:
        """The output of each class of the data; None if the classes are the same in the same order.

        Names are equal if they are the same text or the same ImageNet class: a synset, its words, or one of its words.

        Args:
            data: names of the classes in the order of the labels of the data.

        Raises:
            ValueError: the names differ, or cannot be matched because names occur twice.
        """
        own, wanted = self._comparable(data)
        order = self._match(own, wanted)
        if None in order or len(set(order)) != len(own):
            raise ValueError(self._describe(own, wanted))
        matched = tuple(k for k in order if k is not None)
        return None if matched == tuple(range(len(own))) else matched

    def outputs(self, data: Sequence[str]) -> tuple[int, ...]:
        """The output of each class of the data, which may have some of the classes only; names are equal as in `order`.

        Args:
            data: names of the classes in the order of the labels of the data.

        Raises:
            ValueError: a class of the data is not one of the head, or cannot be told from another one.
        """
        own, wanted = self._comparable(data)
        found = self._match(own, wanted)
        unknown = [data[k] for k, output in enumerate(found) if output is None]
        if unknown:
            raise ValueError(
                f"{len(unknown)} classes of the data ({shortened_list(unknown)}) are not classes of {self.source}, or stand "
                "for several of them"
            )
        matched = tuple(k for k in found if k is not None)
        if len(set(matched)) != len(matched):
            raise ValueError(f"classes of the data have the same name in {self.source}")
        return matched

    def relabel(self, images: ImageList) -> ImageList:
        """The images with the labels and the class names of the head; unchanged where they have no class names.

        Raises:
            ValueError: see `order`.
        """
        if images.class_names is None or images.labels is None:
            return images
        order = self.order(images.class_names)
        if order is None:
            return images
        return replace(
            images,
            labels=_moved(images.labels, np.asarray(order, np.int64)),
            class_names=reordered(images.class_names, order),
            notes=(*images.notes, self.describe_order(images.class_names, order)),
        )

    def describe_order(self, data: Sequence[str], order: Sequence[int]) -> str:
        """A sentence for the log on an order that is not None."""
        label = next(label for label, output in enumerate(order) if label != output)
        return (
            f"the classes of the data have another order than those of {self.source}, labels are matched by name: "
            f"{data[label]!r} is label {label} of the data and output {order[label]}"
        )

    @staticmethod
    def _match(own: Sequence[str], wanted: Sequence[str]) -> list[int | None]:
        """The output of each wanted name; None for a name that is unknown or ambiguous."""
        by_name: dict[str, set[int]] = {}
        for k, name in enumerate(own):
            for spelling in _spellings(name):
                by_name.setdefault(spelling, set()).add(k)
        is_whole = len(own) == len(
            wanted
        )  # with some of the classes only, a label says nothing about its output
        return [_find(by_name, name, k if is_whole else None) for k, name in enumerate(wanted)]

    def _comparable(self, data: Sequence[str]) -> tuple[list[str], list[str]]:
        """Names of the head and of the data, both as synsets or both as words."""
        own = self.spelled_out
        if isinstance(self.names, str) and set(data) <= set(synsets(self.names)):
            own = synsets(self.names)
        # Synsets are kept where they match: two ImageNet classes have the same words (crane).
        if not set(data) <= set(own):
            own, data = from_synsets(own), from_synsets(data)
        return [_composed(name) for name in own], [_composed(name) for name in data]

    def _describe(self, own: Sequence[str], data: Sequence[str]) -> str:
        def listed(names: Sequence[str], others: Sequence[str]) -> str:
            return shortened_list([name for name in names if name not in set(others)] or list(names))

        return (
            f"the {len(data)} classes of the data ({listed(data, own)}) are not the {len(own)} classes of {self.source} "
            f"({listed(own, data)}). Name them alike, choose the data or the weights that belong together, or say "
            "`-opts DATA.MATCH_CLASS_NAMES False` to take label k for output k whatever the names are, or `TEST.CLASS_SUBSET "
            "True` to evaluate on some of the classes"
        )


def reordered(values: Sequence[Item], order: Sequence[int]) -> tuple[Item, ...]:
    """`values` with entry k moved to place `order[k]`."""
    places = {place: k for k, place in enumerate(order)}
    return tuple(values[places[place]] for place in range(len(values)))


def _moved(labels: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Labels `[len]` or `[len, K]` with class k called `order[k]`."""
    return order[labels] if labels.ndim == 1 else labels[:, np.argsort(order)]


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _spellings(name: str) -> set[str]:
    return {name, *(part.strip() for part in name.split(","))}


def _find(by_name: dict[str, set[int]], name: str, label: int | None) -> int | None:
    """The output called `name`; of several the one with the number of the label."""
    found = by_name.get(name)
    if found is None:
        found = set().union(*(by_name.get(part, set()) for part in _spellings(name)))
    if label in found:
        return label
    return next(iter(found)) if len(found) == 1 else None
