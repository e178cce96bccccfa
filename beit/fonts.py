"""Fonts for text in any script: class names are drawn by the installed fonts that have their characters."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_DEFAULT = "DejaVu Sans"  # comes with matplotlib; has Latin, Greek, Cyrillic, Arabic
_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_PREFERRED = ("sans", "gothic", "hei", "regular")  # parts of file names, for plain text


def families(texts: Iterable[str]) -> list[str]:
    """Names of font families for matplotlib, which takes each character from the first family that has it.

    Warns once of characters that no installed font has; they are drawn as boxes.

    Args:
        texts: what will be drawn.
    """
    from matplotlib import font_manager

    names = [_DEFAULT]
    for file in _files(frozenset("".join(texts))):
        font_manager.fontManager.addfont(file)
        names.append(font_manager.FontProperties(fname=file).get_name())
    return names


def font_file(text: str) -> Path:
    """A font file for Pillow, which draws a text with one font: the first that has all its characters, or the default.

    Warns as `families`.
    """
    characters = frozenset(text)
    candidates = [_default_file(), *_files(characters)]
    return max(candidates, key=lambda file: len(characters & _characters(file)))


@cache
def _files(characters: frozenset[str]) -> tuple[Path, ...]:
    """Font files that together have the characters which the default font lacks; warns of those that no font has."""
    missing = {c for c in characters - _characters(_default_file()) if unicodedata.category(c)[0] not in "CZ"}
    chosen: list[Path] = []
    installed = _installed() if missing else ()
    while missing:
        best = max(installed, key=lambda file: len(missing & _characters(file)), default=None)
        if best is None or not missing & _characters(best):
            shown = " ".join(sorted(missing)[:10])
            warnings.warn(
                f"no installed font has the characters {shown}: they are drawn as boxes; install a font that has them, "
                "for Chinese, Japanese and Korean for example fonts-noto-cjk",
                stacklevel=2,
            )
            break
        chosen.append(best)
        missing -= _characters(best)
    return tuple(chosen)


@cache
def _default_file() -> Path:
    from matplotlib import font_manager

    return Path(font_manager.findfont(_DEFAULT))


def _installed() -> tuple[Path, ...]:
    """The font files of the system, plain ones first."""
    from matplotlib import font_manager

    files = {Path(file) for file in font_manager.findSystemFonts()}
    readable = [file for file in files if file.suffix.lower() in _SUFFIXES]
    return tuple(sorted(readable, key=lambda file: (-_plainness(file), str(file))))


def _plainness(file: Path) -> int:
    name = file.stem.lower()
    return sum(part in name for part in _PREFERRED) - 2 * ("bold" in name or "italic" in name)


@cache
def _characters(file: Path) -> frozenset[str]:
    """The characters that a font has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    # A font that is damaged, or of a form that FreeType does not know, counts as not installed.
    try:
        return frozenset(map(chr, FT2Font(str(file)).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
