"""The words of the page."""

from __future__ import annotations

import inspect
import re
from string import Formatter

import pytest

from beit.predict import classifier, exported, segmentation
from beit.predict.page_text import TEXT, language_of
from beit.predict.predictor import Predictor


def fields(text):
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_both_languages_have_the_same_texts_with_the_same_fields():
    english, chinese = TEXT["en"], TEXT["zh"]
    assert list(english) == list(chinese)
    for name, text in english.items():
        assert fields(text) == fields(chinese[name])
        assert re.search(r"[\u4e00-\u9fff]", chinese[name]) and text.isascii()


def test_captions_and_scores_of_all_predictors_have_a_text():
    modules = [exported, classifier, segmentation]
    kinds = [
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Predictor) and "explain" in vars(kind)
    ]
    assert {kind.__module__ for kind in kinds} >= {module.__name__ for module in modules}
    captions = {
        text
        for kind in kinds
        for text in re.findall(
            r'"((?:attention|the) [^"]*)"', inspect.getsource(kind.explain).split('"""')[2]
        )
    }
    assert len(captions) == 4
    assert captions | {kind.score_name for kind in kinds if "score_name" in dir(kind)} <= set(TEXT["en"])


@pytest.mark.parametrize(
    "accepted, language",
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9", "en"),
        ("de-DE, zh-TW;q=0.7, en;q=0.3", "zh"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_language_of_a_browser(accepted, language):
    assert language_of(accepted) == language
