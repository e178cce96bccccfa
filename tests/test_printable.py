"""Text of a stranger's file cannot move the cursor, color the terminal or reorder the words around it."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from beit.__main__ import main
from beit.containers.errors import listed, shown
from beit.logging import RunLog
from beit.printable import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\nb\rc\x00", r"a\nb\rc\x00"),
        ("\x9b31m\x7f", r"\x9b31m\x7f"),
        ("\u2028\u202e\ud800", r"\u2028\u202e\ud800"),
        ("tench, Tinca\ttinca, シュナウザー, 👩\u200d🚀, می\u200cخواهم", None),
    ],
)
def test_control_characters_become_escapes(text: str, expected: str | None) -> None:
    assert printable(text) == (text if expected is None else expected)
    assert printable_lines(f"{text}\n{text}").count("\n") == 1 + 2 * text.count("\n")


def test_names_in_messages() -> None:
    assert shown("a\tb\xad\u200b") == r"a\tb\xad\u200b"
    assert shown("a\nb" + "c" * 100) == r"a\nb" + "c" * 77 + "…"
    assert listed(["a\x1b", *"bcdefgh"]) == r"a\x1b, b, c, d, e, f and 2 more"


def test_the_log_and_the_errors_of_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    log = RunLog(tmp_path, rank=0, stream=stream)
    log.text("first \x1b[31m\nsecond")
    log.close()
    for text in (stream.getvalue(), (tmp_path / "log.txt").read_text(encoding="utf-8")):
        assert text[20:] == "first \\x1b[31m\nsecond\n"
    assert main(["convert", str(tmp_path / "\x1b[31m.pth"), str(tmp_path / "x.pdparams")]) == 2
    assert "\x1b" not in capsys.readouterr().err
