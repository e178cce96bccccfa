from __future__ import annotations

import os

import pytest

from beit.data.bad_images import START, Recorded, record, start
from beit.data.images import ImageError


@pytest.mark.parametrize(
    "name",
    [
        "a b.png", "a\tb.png", "tab\t\t.png", "a\nb.png", "a\rb.png", "a\u2028b.png", "a\x0bb\x1cc.png",
        os.fsdecode(b"latin-\xe9.png"), START,
    ],
)  # fmt: skip
def test_each_name_is_counted_once_whatever_it_contains(tmp_path, name):
    file = tmp_path / "bad_images.txt"
    names = [f"{number}{name}" for number in range(12)]
    for _ in range(2):
        for path in names:
            record(file, ImageError(path, "cannot be decoded:\tbroken\ndata\u2028stream"))
    assert Recorded(file)() == {path.replace("\n", "\\n") for path in names}
    lines = file.read_bytes().split(b"\n")
    assert len(lines) == 25 and lines[0].endswith(b"\tcannot be decoded: broken data stream")


def test_a_new_start_counts_anew_and_keeps_the_lines(tmp_path):
    file = tmp_path / "bad_images.txt"
    recorded = Recorded(file)
    start(file)
    assert not file.exists() and recorded() == set()
    record(file, ImageError("a.png", "an empty file"))
    start(file)
    start(file)  # another rank
    assert recorded() == Recorded(file)() == set()
    record(file, ImageError("b.png", "an empty file"))
    assert recorded() == Recorded(file)() == {"b.png"}
    start(file)
    assert file.read_text().splitlines() == ["a.png\tan empty file", START, "b.png\tan empty file", START]


def test_each_call_reads_what_was_added(tmp_path):
    """Also where another process has written a part of a line, or somebody deletes the file."""
    file = tmp_path / "bad_images.txt"
    recorded = Recorded(file)
    record(file, ImageError("a.png", "an empty file"))
    assert recorded() == {"a.png"}
    file.write_bytes(bytes(file.stat().st_size))  # what was read is not read again
    with file.open("a") as out:
        out.write("b.")
    assert recorded() == {"a.png"}
    record(file, ImageError("png", "an empty file"))
    assert recorded() == {"a.png", "b.png"}
    file.unlink()
    assert recorded() == set()
    record(file, ImageError("c.png", "an empty file"))
    assert recorded() == {"c.png"}
