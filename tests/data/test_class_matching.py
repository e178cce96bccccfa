"""Classes of weights and data are matched by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beit.data.class_matching import KnownClasses, reordered
from beit.data.image_list import ImageList
from beit.imagenet_classes import class_names, synsets
from beit.metadata.class_names import parse_class_names


def known(*names):
    return KnownClasses(names, "run/model.pdparams")


def test_names_in_another_order_are_matched():
    images = ImageList.from_names(Path(), ["a", "b", "c", "d"], [0, 1, 2, 0], ("ant", "yak", "zoo"))
    found = known("zoo", "yak", "ant").relabel(images)
    np.testing.assert_array_equal(found.labels, [2, 1, 0, 2])
    assert found.class_names == ("zoo", "yak", "ant")
    assert "labels are matched by name: 'ant' is label 0 of the data and output 2" in found.notes[0]
    assert known("ant", "yak", "zoo").relabel(images) is images
    unnamed = ImageList.from_names(Path(), ["a"], [0])
    assert known("zoo", "yak", "ant").relabel(unnamed) is unnamed


def test_other_names_are_refused_and_both_are_shown():
    with pytest.raises(
        ValueError,
        match=r"classes of the data \(bus, van\) are not the 3 classes of run/model.pdparams \(cat, emu\).*"
        "DATA.MATCH_CLASS_NAMES False",
    ):
        known("cat", "dog", "emu").order(["bus", "dog", "van"])


def test_composed_and_decomposed_names_are_equal():
    assert known("b", "n\u00e9").order(["ne\u0301", "b"]) == (1, 0)


def test_names_that_occur_twice_keep_their_places_or_are_refused():
    assert known("crane", "crane", "ant").order(["crane", "crane", "ant"]) is None
    with pytest.raises(ValueError, match="are not the 3 classes"):
        known("crane", "crane", "ant").order(["ant", "crane", "crane"])


def test_a_name_that_occurs_twice_is_no_class_of_a_subset():
    """In a subset the label does not tell which of the two is meant."""
    known = KnownClasses(("crane", "crane", "owl"), "w")
    assert known.outputs(("owl",)) == (2,)
    with pytest.raises(
        ValueError, match=r"1 classes of the data \(.?crane.?\) are not .* or stand for several"
    ):
        known.outputs(("crane", "owl"))


def test_imagenet_classes_by_synset_words_or_one_word():
    published = KnownClasses("imagenet-1k", "published weights")
    folders, words = synsets("imagenet-1k"), class_names("imagenet-1k")
    assert published.order(folders) is None and published.order(words) is None
    assert published.order([name.split(",")[0] for name in words]) is None
    assert published.order(folders[::-1]) == tuple(range(999, -1, -1))
    assert KnownClasses(words, "converted").order(folders) is None
    assert KnownClasses(folders, "a run").order(words) is None


def test_reordered():
    assert reordered("abc", (2, 0, 1)) == ("b", "c", "a")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cat\ndog\r\n\n emu \n", ("cat", "dog", "emu")),
        ("\ufeff0 cat\n1 dog\n", ("cat", "dog")),
        ("1\tdog, hound\n0\tcat\n", ("cat", "dog, hound")),
        ("1 euro\n2 euro\n", ("1 euro", "2 euro")),
        ("0 cat\ndog\n", ("0 cat", "dog")),
        ("0\n1\n10\n", ("0", "1", "10")),
        ("a\u2028b\nc\x85\nd\x1ce\n", ("a\u2028b", "c\x85", "d\x1ce")),
        ("", ()),
    ],
)
def test_lines_of_class_names(text, names):
    assert parse_class_names(text) == names
