"""Sources of class names, and values that are no class names."""

from __future__ import annotations

import pytest

from beit.metadata.class_names import (
    describe_unused_names,
    find_class_names,
    format_class_names,
    parse_class_names,
)

THREE = ["a", "b", "c"]


@pytest.mark.parametrize(
    "config",
    [
        {"class_names": THREE},
        {"pretrained_cfg": {"label_names": THREE}},
        {"label_names": THREE, "pretrained_cfg": {"label_names": ["x", "y", "z"]}},
        {"label_names": {"2": "c", "0": "a", "1": "b"}},
        {"labels": THREE},
        {"label_names": ["n1", "n2", "c"], "label_descriptions": {"n1": "a", "n2": "b"}},
        {"meta": {"dataset_meta": {"classes": ("a", "b", "c")}}},
        {"meta": {"CLASSES": THREE}},
        {"id2label": {"1": "b", "0": "a", "2": "c"}},
        {"class_names": ["of", "another", "head", "!"], "id2label": {"0": "a", "1": "b", "2": "c"}},
    ],
)
def test_names_from_files_beside_the_weights(config):
    assert find_class_names(3, config, is_published=False) == ("a", "b", "c")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}},
        {"id2label": {"x": "a"}},
        {"class_names": "imagenet-1k"},
    ],
)
def test_names_are_unknown(config):
    assert find_class_names(3, config, is_published=True) is None


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("dog", "猫", "a b"), "dog\n猫\na b\n"),
        (("0 cat", "1 dog"), "0 0 cat\n1 1 dog\n"),  # as they are, the numbers would be those of the classes
        (("1 dog", "2 cat"), "1 dog\n2 cat\n"),
        (("1 dog", "0 cat"), "0 1 dog\n1 0 cat\n"),
    ],
)
def test_written_names_are_read_back(names, text):
    assert format_class_names(names) == text
    assert parse_class_names(text) == names


@pytest.mark.parametrize("name", ["a\nb", " a", "a\t", "", "\n"])
def test_names_that_no_line_holds_are_refused(name):
    with pytest.raises(ValueError, match="has a line break or a blank at an end, or is empty; rename"):
        format_class_names(("x", name))


def test_names_of_another_head_are_reported():
    metadata = {"label_names": [*THREE, "d"], "id2label": {"0": "a", "1": "b", "2": "c"}}
    assert describe_unused_names(3, metadata) == [
        "label_names names 4 classes, the head has 3 outputs: not used"
    ]
    assert describe_unused_names(0, metadata) == []


def test_published_heads_have_the_classes_of_imagenet():
    assert find_class_names(1000, {}, is_published=True) == "imagenet-1k"
    assert find_class_names(21841, {}, is_published=True) == "imagenet-21k"
    assert find_class_names(1000, {}, is_published=False) is None  # anybody's thousand classes
    assert find_class_names(1000, {"class_names": "imagenet-1k"}, is_published=False) == "imagenet-1k"
    assert find_class_names(0, {}, is_published=True) is None
