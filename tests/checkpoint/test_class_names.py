"""Sources of class names, and values that are no class names."""

from __future__ import annotations

import pytest

from beit.checkpoint.class_names import find_class_names

THREE = ["a", "b", "c"]


@pytest.mark.parametrize(
    "config",
    [
        {"class_names": THREE},
        {"pretrained_cfg": {"label_names": THREE}},
        {"id2label": {"1": "b", "0": "a", "2": "c"}},
        {"class_names": ["of", "another", "head", "!"], "id2label": {"0": "a", "1": "b", "2": "c"}},
    ],
)
def test_names_from_files_beside_the_weights(config):
    assert find_class_names("canonical", 3, config) == ("a", "b", "c")


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
    assert find_class_names("timm", 3, config) is None


def test_published_heads_have_the_classes_of_imagenet():
    assert find_class_names("unilm", 1000, {}) == "imagenet-1k"
    assert find_class_names("timm", 21841, {}) == "imagenet-21k"
    assert find_class_names("canonical", 1000, {}) is None  # anybody's thousand classes
    assert find_class_names("canonical", 1000, {"class_names": "imagenet-1k"}) == "imagenet-1k"
    assert find_class_names("unilm", 0, {}) is None
