"""The two lists of class names."""

from __future__ import annotations

import pytest

from beit.imagenet_classes import class_names, first_synonym, from_synsets, synsets

DROPPED_SYNSETS = {9205: "n03931044", 15027: "n09859684"}
"""Index in the 21,843 synsets of ImageNet-21k to the synset that the published BEiT heads have no output for.

They are "picture, image, icon, ikon" and "bleacher". Source: transformers' conversion of BEiT deletes these indices.
"""


def test_imagenet_1k():
    names = class_names("imagenet-1k")
    assert len(names) == 1000
    assert [names[k].split(",")[0] for k in (0, 1, 388, 999)] == [
        "tench",
        "goldfish",
        "giant panda",
        "toilet tissue",
    ]
    assert [k for k, name in enumerate(names) if name == "crane"] == [134, 517]  # the bird and the machine
    assert list(synsets("imagenet-1k")) == sorted(set(synsets("imagenet-1k")))


def test_the_list_of_21841_is_that_of_21843_without_two():
    """Inserted at their indices, the two give a list sorted by identifier, as ImageNet-21k is."""
    ids = list(synsets("imagenet-21k"))
    assert len(ids) == 21841 == len(class_names("imagenet-21k"))
    assert not set(ids) & set(DROPPED_SYNSETS.values())
    for index, synset in sorted(DROPPED_SYNSETS.items()):
        ids.insert(index, synset)
    assert len(ids) == 21843 and [ids[9205], ids[15027]] == ["n03931044", "n09859684"]
    assert ids == sorted(ids)
    assert class_names("imagenet-21k")[0] == "organism, being"


def test_all_but_one_class_of_the_short_list_are_in_the_long_one():
    assert set(synsets("imagenet-1k")) - set(synsets("imagenet-21k")) == {"n04399382"}  # teddy


def test_synsets_as_folder_names_are_replaced_by_lemmas():
    assert from_synsets(["n01440764", "n02510455"])[0] == "tench, Tinca tinca"
    assert from_synsets(["n01440764", "mine"]) == ("n01440764", "mine")


def test_only_names_of_wordnet_are_shortened_to_their_first_synonym():
    assert first_synonym("tench, Tinca tinca") == "tench"
    assert first_synonym("rose, red") == "rose, red"
    assert first_synonym("Wälder, Äste") == "Wälder, Äste"


def test_an_unknown_list_is_an_error():
    with pytest.raises(ValueError, match="did you mean imagenet-1k"):
        class_names("imagenet1k")
