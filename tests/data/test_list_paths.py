"""Paths in lists as other programs write them."""

from __future__ import annotations

import unicodedata

import pytest

from beit.data.list_file import read_list_file
from beit.data.list_paths import relative_names
from beit.data.unlabeled import HOLDOUT, read_flat
from tests.data.packed import touch

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "n\u00e9") for form in ("NFC", "NFD"))


def read(root, name):
    (root / "list.txt").write_text(f"{name} 0\nplain.png 1\n", encoding="utf-8")
    images = read_list_file(root / "list.txt", root, 2)
    return images.name(0), images.notes


@pytest.mark.parametrize(
    ("file", "written", "notes"),
    [
        ("a/b.png", "a\\b.png", ["backslashes are read as slashes"]),
        (f"{DECOMPOSED}/b.png", f"{COMPOSED}/b.png", ["other Unicode form"]),
        (f"{COMPOSED}/b.png", f"{DECOMPOSED}/b.png", ["other Unicode form"]),
        (f"{DECOMPOSED}/b.png", f"{COMPOSED}\\b.png", ["backslashes are read", "other Unicode form"]),
    ],
)
def test_another_spelling_of_a_file(tmp_path, file, written, notes):
    name, found = read(touch(tmp_path, file), written)
    assert name == file and len(found) == len(notes)
    assert all("1 of 2 lines" in one and note in one for one, note in zip(found, notes, strict=True))


def test_absolute_paths_inside_the_data_folder(tmp_path):
    root = touch(tmp_path / "data", "a/b.png")
    (tmp_path / "link").symlink_to(root)
    assert read(root, root / "a/b.png")[0] == "a/b.png"
    assert read(tmp_path / "link", root / "a/b.png")[0] == "a/b.png"
    name, notes = read(root, root / "a/missing.png")
    assert name == "a/missing.png" and "1 of 2 lines: absolute paths" in notes[0]
    for outside in (tmp_path / "data2/a.png", f"{root}/../x.png", f"{root}/..\\x.png"):
        with pytest.raises(ValueError, match="leaves the data folder"):
            read(root, outside)


def test_names_that_exist_as_they_are_written_are_kept(tmp_path):
    names = ["a\\b.png", f"{COMPOSED}.png", f"{DECOMPOSED}.png", "\u732b.png"]
    touch(tmp_path, *names, "a/b.png")
    encoded = [name.encode() for name in names]
    assert relative_names(encoded, tmp_path) == (encoded, ())


def test_held_out_images(tmp_path):
    touch(tmp_path, "a/b.png", f"{DECOMPOSED}.png", "c.png")
    (tmp_path / HOLDOUT).write_text(f"a\\b.png\r\n{COMPOSED}.png\n", encoding="utf-8")
    images = read_flat(tmp_path, "train")
    assert [images.name(k) for k in range(len(images))] == ["c.png"]


def test_a_long_path_is_shortened_in_the_message(tmp_path):
    with pytest.raises(ValueError, match="leaves the data folder") as caught:
        read(tmp_path, "/.." * 100_000)
    assert len(str(caught.value)) < 500
