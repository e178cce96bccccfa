"""Class names in any script are drawn, or a message says what is missing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image

from beit import fonts
from beit.figures import Tile, draw_tiles, save_figure
from beit.predict.segmentation_overlays import overlay_classes

NAMES = ("花", "天空")


@pytest.fixture(params=["with a font", "without a font"])
def has_font(request, tmp_path, monkeypatch):
    """Whether the only installed font has the characters of NAMES; each of them is a filled square in it."""
    fonts._files.cache_clear()
    file = tmp_path / "squares-regular.ttf"
    if request.param == "with a font":
        write_font(file, "".join(NAMES) + " 0123456789.%")
    monkeypatch.setattr(fonts, "_installed", lambda: (file,) if file.is_file() else ())
    yield file.is_file()
    fonts._files.cache_clear()


def write_font(file, characters):
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for point in ((50, 800), (950, 800), (950, 0)):
        pen.lineTo(point)
    pen.closePath()
    square, empty = pen.glyph(), TTGlyphPen(None).glyph()
    names = {ord(character): f"g{ord(character)}" for character in characters}
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf({".notdef": empty} | dict.fromkeys(names.values(), square))
    builder.setupHorizontalMetrics(dict.fromkeys([".notdef", *names.values()], (1000, 50)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Test Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)


def ink(path):
    """Share of dark pixels: 0.008 for filled squares, 0.005 for boxes."""
    return float((np.asarray(Image.open(path).convert("L")) < 100).mean())


def test_titles_of_a_figure_are_drawn_with_the_font_that_has_them(has_font, tmp_path):
    tile = Tile(np.full((8, 8, 3), 255, np.uint8), "花天空")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        path = save_figure(draw_tiles([tile], columns=1), tmp_path / "figure.png")
        draw_tiles([tile], columns=1).savefig(tmp_path / "again.png")  # as users of `beit.draw_…` do
    said = [str(warning.message) for warning in caught]
    if has_font:
        assert said == []
        assert fonts.families(["花"]) == ["DejaVu Sans", "Test Squares"]
        assert ink(path) > 0.006 and ink(tmp_path / "again.png") > 0.006
    else:
        assert len(said) == 1
        assert "no installed font has the characters" in said[0]
        assert "花" in said[0]
        assert "fonts-noto-cjk" in said[0]


def test_the_legend_of_an_overlay_is_drawn_with_the_font_that_has_its_names(has_font):
    image, classes = Image.new("RGB", (16, 16), "white"), np.zeros((16, 16), np.int64)
    palette = [(255, 255, 255)] * 2
    if not has_font:
        with pytest.warns(UserWarning, match="no installed font has the characters"):
            overlay_classes(image, classes, NAMES, palette)
        return
    legend = np.asarray(overlay_classes(image, classes, NAMES, palette).crop((40, 0, 400, 40)).convert("L"))
    assert (legend < 100).sum() > 40  # a filled square of 11 pixels, where a box has its outline only


def test_latin_and_cyrillic_need_no_other_font(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: pytest.fail("the fonts of the system are not searched"))
    assert fonts.families(["café cup", "зелёная трава"]) == ["DejaVu Sans"]
