"""Paths in list files as other programs write them: backslashes, absolute paths, another Unicode form."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

_FORMS: tuple[Literal["NFC", "NFD"] | None, ...] = (None, "NFC", "NFD")
_SENTENCES = (
    "absolute paths inside the data folder are read relative to it",
    "backslashes are read as slashes",
    "names are found in the other Unicode form (NFC, NFD)",
)


def relative_names(names: Sequence[bytes], root: Path) -> tuple[list[bytes], tuple[str, ...]]:
    """The names of a list as the files below `root` are called, and sentences on what was changed.

    * An absolute path inside of `root` loses `root`.
    * A backslash becomes a slash where only that file exists.
    * A name in composed Unicode (NFC) is decomposed (NFD), or the reverse, where only that file exists.

    Other names are returned unchanged, even if there is no such file. Files are looked up only for names with a backslash
    or a letter that has two forms.

    Args:
        names: UTF-8, without the labels.
        root: folder that the names are relative to.
    """
    result, changed = list(names), dict.fromkeys(_SENTENCES, 0)
    folders = [os.fsencode(path).rstrip(b"/") + b"/" for path in (root.absolute(), root.resolve())]
    for k in [k for k, name in enumerate(names) if name[:1] == b"/" or b"\\" in name or not name.isascii()]:
        inside = next(
            (names[k][len(folder) :] for folder in folders if names[k].startswith(folder)), names[k]
        )
        result[k] = _existing(root, inside)
        slashes_changed = inside.count(b"/") != result[k].count(b"/")
        letters_changed = inside.replace(b"\\", b"/") != result[k].replace(b"\\", b"/")
        for sentence, is_changed in zip(
            _SENTENCES, (inside != names[k], slashes_changed, letters_changed), strict=True
        ):
            changed[sentence] += is_changed
    return result, tuple(f"{count} of {len(names)} lines: {text}" for text, count in changed.items() if count)


def _existing(root: Path, name: bytes) -> bytes:
    """The spelling of the name that exists; the name itself if none does or if it has only one."""
    forms = dict.fromkeys(
        unicodedata.normalize(form, spelling).encode() if form else spelling.encode()
        for spelling in (name.decode(), name.decode().replace("\\", "/"))
        for form in _FORMS
    )
    if len(forms) == 1:
        return name
    folder = os.fsencode(root)
    return next((form for form in forms if os.path.exists(folder + b"/" + form)), name)  # noqa: PTH110
