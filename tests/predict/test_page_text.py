"""The words of the page."""

from __future__ import annotations

import ast
import inspect
import re
from abc import ABCMeta
from collections.abc import Iterator
from string import Formatter

import pytest

from beit.data import decoding_limits, images
from beit.predict import classifier, exported, page, page_access, segmentation
from beit.predict.page_text import REASONS, TEXT, language_of, shown_reason
from beit.predict.predictor import Predictor
from beit.tools import serve


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
        # On Python 3.10 aliases such as `tuple[int, int]` claim to be types.
        if type(kind) is ABCMeta and issubclass(kind, Predictor) and "explain" in vars(kind)
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


def template(node: ast.expr) -> str:
    """The text of a constant or of an f-string, `{}` for its fields."""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            "{}" if isinstance(part, ast.FormattedValue) else template(part) for part in node.values
        )
    assert isinstance(node, ast.Constant), f"not a text: {ast.unparse(node)}"
    return str(node.value).replace("{", "{{").replace("}", "}}")


def reasons() -> Iterator[str]:
    """Each reason that the code can give for not showing a result, read from the places where it is raised."""
    of_decoder = (
        "cannot be decoded: "  # what `images._reason` puts in front of an error inside of `ImageFile`
    )
    for module, error, before in (
        (images, "ImageError", ""),
        (images, "ValueError", of_decoder),
        (decoding_limits, "ValueError", of_decoder),
        (page, "ImageError", ""),
        (page_access, "RefusedError", ""),
    ):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            is_raised = isinstance(node, ast.Call) and ast.unparse(node.func) == error
            if is_raised and not ast.unparse(node.args[-1]).startswith("_reason("):
                yield before + template(node.args[-1])
    for node in ast.walk(ast.parse(inspect.getsource(images._reason))):
        if isinstance(node, ast.Return):
            assert node.value is not None
            yield template(node.value)


def test_each_reason_is_translated_and_no_other():
    found = set(reasons())
    assert len(found) > 25 and found == set(REASONS)
    for reason in found:
        shown = shown_reason(reason.format(*"123456"), "zh")
        assert re.search(r"[\u4e00-\u9fff]", shown), reason
        assert "DATA." not in shown_reason(reason.format(*"123456"), "en")


def test_a_reason_keeps_its_values_in_the_order_of_the_language():
    reason = "cannot be decoded: a tile of 9000 pixels for an image of 80 x 60"
    assert shown_reason(reason, "zh") == "无法解码：80 x 60 的图片却有 9000 像素的分块"
    assert shown_reason(reason, "en") == reason
    truncated = "cannot be decoded: image file is truncated (3 bytes not processed)"
    assert shown_reason(truncated, "zh") == "无法解码：文件已损坏或不完整"
    assert shown_reason("something else", "zh") == "something else"


def test_labels_of_the_page_are_given_to_gradio():
    labels = set(re.findall(r'words\("(.+?)"\)', inspect.getsource(serve.build_page)))
    labels |= {kind.score_name for kind in (classifier.Classifier, segmentation.Segmenter)}
    assert len(labels) == 5 and labels == set(serve._SHOWN) <= set(TEXT["zh"])
