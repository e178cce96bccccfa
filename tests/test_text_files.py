"""Text files of strangers: a value or one line, in bounded memory and time, through every reader of such a file."""

from __future__ import annotations

import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit import passl
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.config import get_config
from beit.containers.arrays import MEMORY_MINIMUM, MEMORY_MULTIPLE
from beit.data.image_mask import read_palette
from beit.data.list_file import read_class_names, read_list_file
from beit.deploy.description import read_description
from beit.text_files import (
    MAX_BYTES,
    MAX_JSON_MARKS,
    MAX_YAML_CHARACTERS,
    load_yaml,
    parse_json,
    read_bytes,
    read_json,
    read_text,
)
from beit.tools.model_arguments import _class_names
from beit.transformers import BeitConfig, BeitImageProcessor
from tests.checkpoint import publishers

SECONDS = 20  # of the processor; the slowest takes 2


def weights(name: str) -> Callable[[Path], Any]:
    """Open weights beside the file of a test."""

    def read(file: Path) -> Any:
        write(
            file.with_name(name), publishers.paddlevit(publishers.unilm_classifier(np.random.default_rng(0)))
        )
        return open_checkpoint(file.parent if name.startswith("model.s") else file.with_name(name))

    return read


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "weights of a run: class names": ("class_names.txt", weights("latest.pdparams")),
    "weights of a run: config": ("config.yaml", weights("latest.pdparams")),
    "weights of transformers: config": ("config.json", weights("model.safetensors")),
    "weights of transformers: preprocessing": ("preprocessor_config.json", weights("model.safetensors")),
    "converted weights": ("w.pretrained_cfg.json", weights("w.pdparams")),
    "weights in several files": ("model.safetensors.index.json", open_checkpoint),
    "config": ("c.yaml", get_config),
    "config of PASSL": ("c.yaml", passl.get_config),
    "BeitConfig": ("config.json", BeitConfig.from_pretrained),
    "BeitImageProcessor": ("preprocessor_config.json", BeitImageProcessor.from_pretrained),
    "export": ("export.json", lambda file: read_description(file.parent)),
    "class names of data": ("class_names.txt", lambda file: read_class_names(file, 2)),
    "class names of an option": ("names.txt", lambda file: _class_names(str(file))),
    "palette": ("palette.txt", lambda file: read_palette(file, 2)),
    "list": ("train_list.txt", lambda file: read_list_file(file, file.parent, None)),
}  # fmt: skip


def fifo(file: Path) -> None:
    os.mkfifo(file)


def too_large(file: Path) -> None:
    with file.open("wb") as out:
        out.truncate((4 << 30) + 1 if file.name == "train_list.txt" else MAX_BYTES + 1)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a named pipe": (fifo, "is a named pipe, socket or device|does not exist|not a regular file"),
    "a folder": (lambda file: file.mkdir(), "is a folder|does not exist|the folder .* holds none of"),
    "UTF-16": (
        lambda file: file.write_bytes("a: 1\n".encode("utf-16")),
        r":1: not UTF-8 \(bytes .*iconv -f UTF-16",
    ),
    "too large": (too_large, r"is larger than .* MB, the limit for a file of its kind"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_it_in_one_line(
    tmp_path: Path, name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (name, fault) == ("list", "too large"):
        monkeypatch.setattr("beit.data.list_file.MAX_LIST_BYTES", 1 << 20)
    file_name, read = READERS[name]
    make, words = FAULTS[fault]
    make(tmp_path / file_name)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        read(tmp_path / file_name)
    assert file_name in str(caught.value) and str(caught.value).isprintable()


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": "ü"}', encoding="utf-8-sig")
    assert read_json(tmp_path / "a.json") == {"a": "ü"}
    assert read_text(tmp_path / "a.json") == '{"a": "ü"}'


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone.txt does not exist"):
        read_bytes(tmp_path / "gone.txt")
    with pytest.raises(ValueError, match="/dev/zero is a named pipe, socket or device"):
        read_bytes("/dev/zero")
    (tmp_path / "a").write_bytes(bytes(100))
    assert len(read_bytes(tmp_path / "a", 100)) == 100
    with pytest.raises(ValueError, match="a is larger than 0.0 MB"):
        read_bytes(tmp_path / "a", 99)


def many(unit: str, count: int, ends: str = "[]") -> str:
    return ends[0] + ",".join([unit] * count) + ends[1]


# Name -> a text near the limit of values or of bytes, with the largest share of memory of its kind.
EXPENSIVE = {
    "lists of objects": lambda: many('[{"a":0}]', MAX_JSON_MARKS // 4 - 1),
    "keys": lambda: many(",".join(f'"{n:x}":0' for n in range(MAX_JSON_MARKS // 2 - 1)), 1, "{}"),
    "a long text with a wide character": lambda: many('"' + "a" * (MAX_BYTES - 30) + '\U0001f600"', 1),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPENSIVE)
def test_json_takes_bounded_memory_and_time(tmp_path: Path, name: str) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": ' + EXPENSIVE[name]() + "}", encoding="utf-8")
    size, start = file.stat().st_size, time.process_time()
    tracemalloc.start()
    assert read_json(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - start < SECONDS
    assert peak < MEMORY_MULTIPLE * size + MEMORY_MINIMUM, f"{peak / 2**20:.0f} MiB of {size / 2**20:.1f}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" + "0," * MAX_JSON_MARKS + "0]", "more than 1,000,000 values"),
        ("[" * 100_000, "maximum recursion depth"),
        ('{"a": NaN}', "NaN is no number, or too large"),
        ('{"a": -Infinity}', "-Infinity is no number, or too large"),
        ("9" * 5000, "9… is no number, or too large"),
        ('{"a": 1, "a": 2}', "key a is given twice"),
        ('{"\\u001b[2J": 1, "\\u001b[2J": 2}', r"key \\x1b\[2J is given twice"),
        ("", "Expecting value"),
    ],
)
def test_wrong_json(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_json(text)


def test_integers_stay_integers() -> None:
    assert (
        json.dumps(parse_json("[1, -2, 3.0, 12345678901234567890]")) == "[1, -2, 3.0, 12345678901234567890]"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &a 1\nb: *a\n", r"\*a: aliases are not supported"),
        ("a: 1\na: 2\n", "key a is given twice"),
        ("[" * 1000, "maximum recursion depth"),
        ("a: 2020-99-99\n", "month must be in 1..12"),
        ("a: " + "9" * 5000, "Exceeds the limit"),
        ("a: !!int ''\n", "a value does not fit its tag"),
        ("a: !!bool x\n", "a value does not fit its tag"),
        ("a: !!timestamp x\n", "a value does not fit its tag"),
        ("a: !!map [1]\n", "a value does not fit its tag"),
        ("? !!set {a}\n: 1\n", "a key must be a word"),
        ("? [a]\n: 1\n", "a key must be a word"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("# " + "a" * MAX_YAML_CHARACTERS, "65538 characters, more than the 65536 of a config"),
    ],
)
def test_wrong_yaml(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load_yaml(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("unit", ["- [1,1,1,1]\n", "- {a: 1}\n"])
def test_yaml_takes_bounded_time(unit: str) -> None:
    start = time.process_time()
    load_yaml(unit * (MAX_YAML_CHARACTERS // len(unit)))
    assert time.process_time() - start < SECONDS
