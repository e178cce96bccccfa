"""Weights of a stranger: files that would fill the memory or never end, shapes that contradict, NaN, names that are no text."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.__main__ import main
from beit.beit import build_beit
from beit.checkpoint.files import read, write
from beit.config import dump
from beit.containers.errors import CheckpointError
from beit.predict.inference import load_predictor
from tests.checkpoint import publishers
from tests.containers.hostile_files import HOSTILE, LimitedReader, limited_reader
from tests.faults.harness import Row, message
from tests.tiny import tiny_config

# One of each kind; tests/containers/test_hostile.py has them all.
WORST = (
    "a deep tuple as module name",
    "a deep tuple as storage key",
    "a shared list as value",
    "one byte string as 200,000 arrays",
    "a long key of many values",
    "long wide joined keys of modules",
    "modules that hold each child twice",
    "a big-endian storage of many tensors",
    "a zip member that inflates to more",
    "members of a zip file without content",
    "integer keys that collide",
    "4.9 million dictionaries",
    "lists in the header of safetensors",
)


@pytest.fixture(scope="module")
def reader() -> Iterator[LimitedReader]:
    with limited_reader() as found:
        yield found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The output folder of a tiny run with an image beside it."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = build_beit(tiny_config())
    (folder / "config.yaml").write_text(dump(tiny_config()), encoding="utf-8")
    paddle.save(model.state_dict(), str(folder / "model.pdparams"))
    Image.new("RGB", (16, 16)).save(tmp_path / "image.png")
    return folder


@pytest.mark.parametrize("name", WORST)
def test_hostile_files(tmp_path: Path, row: Row, reader: LimitedReader, name: str) -> None:
    row.fault = f"weights: {name}"
    row.expected = "one line, in memory of 16 times the size and 64 MiB (enforced), in seconds"
    make, expected = HOSTILE[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(make())
    outcome = reader.outcome(path)
    assert re.search(expected, outcome), outcome[:1000]
    row.seen = outcome


def test_a_fifo(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = "weights: a FIFO that nobody writes", "one line at once"
    os.mkfifo(tmp_path / "weights.pth")
    begin = time.monotonic()
    with pytest.raises(CheckpointError, match="weights.pth: neither a file nor a folder") as caught:
        read(tmp_path / "weights.pth")
    row.seconds = time.monotonic() - begin
    row.seen = str(caught.value)


ALTERED: dict[str, tuple[str, tuple[int, ...], str]] = {
    "block number 999999999": ("blocks.999999999.norm1.weight", (24,), "not in the model|holds unknown tensors"),
    "block number 998": ("blocks.998.norm1.weight", (24,), "lacks blocks.10"),
    "a scalar": ("cls_token", (), r"cls_token|D = 1"),
    "an empty tensor": ("head.weight", (24, 0), r"tensor head.weight is empty: its shape is \[24, 0\]"),
    "another width in one block": ("blocks.1.mlp.fc1.weight", (23, 96), r"has shape \[23, 96\], expected \[D, M\]"),
    "a name with a line break and an escape sequence": ("x\n\x1b[2J", (3,), r"x\\n\\x1b\[2J"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_altered_names_and_shapes(
    tmp_path: Path, row: Row, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    row.fault, row.expected = f"weights with {name}, `beit convert`", "status 2, one line with the tensor"
    tensor, shape, reason = ALTERED[name]
    tree = publishers.paddle_layout(publishers.unilm_classifier(np.random.default_rng(0)))
    write(tmp_path / "a.pdparams", tree | {tensor: np.zeros(shape, np.float32)})
    begin = time.monotonic()
    status = main(["convert", str(tmp_path / "a.pdparams"), str(tmp_path / "b.safetensors")])
    row.seconds = time.monotonic() - begin
    said = capfd.readouterr().err
    assert status == 2 and re.search(reason, said), said
    assert all(line.isprintable() for line in said.splitlines()) and len(message(said)) < 500
    assert not (tmp_path / "b.safetensors").exists()
    row.seen = message(said)


@pytest.mark.parametrize("form", ["--json", "--csv", "--topk=1"])
def test_nan_in_predict(run: Path, row: Row, capfd: pytest.CaptureFixture[str], form: str) -> None:
    row.fault, row.expected = f"one weight is NaN, `beit predict {form}`", "status 2, one line, no result"
    tree = dict(read(run / "model.pdparams").tree)
    tree["head.weight"] = np.full_like(tree["head.weight"], np.nan)
    write(run / "model.pdparams", tree)
    assert main(["predict", str(run), str(run.parent / "image.png"), "--device", "cpu", form]) == 2
    out, err = capfd.readouterr()
    assert out == "" and "NaN or infinity in 1 tensors, first head.weight" in err
    row.seen = message(err)


def test_nan_in_convert(run: Path, row: Row, capfd: pytest.CaptureFixture[str]) -> None:
    row.fault, row.expected = "one weight is NaN, `beit convert`", "a warning in the report"
    tree = dict(read(run / "model.pdparams").tree)
    tree["head.weight"] = np.full_like(tree["head.weight"], np.nan)
    write(run / "model.pdparams", tree)
    assert main(["convert", str(run), str(run.parent / "b.safetensors")]) == 0
    said = capfd.readouterr().out
    assert "warning: NaN or Inf in head.weight" in said
    row.seen = next(line.strip() for line in said.splitlines() if "warning" in line)


BESIDE: dict[str, tuple[str, bytes | None, str]] = {
    "class names in UTF-16": ("class_names.txt", "cat\n".encode("utf-16"), ":1: not UTF-8"),
    "a config in UTF-16": ("config.yaml", "MODEL:\n".encode("utf-16"), ":1: not UTF-8"),
    "class names of 17 MB": ("class_names.txt", b"a\n" * 8_500_000, "is larger than 16.8 MB"),
    "a config of 66 KB": ("config.yaml", b"MODEL:\n" + b"#" * 66_000, "more than the 65536 of a config"),
    "a named pipe": ("class_names.txt", None, "is a named pipe, socket or device"),
    "JSON nested 100,000 deep": ("model.pretrained_cfg.json", b"[" * 100_000, "maximum recursion depth"),
    "JSON of 2 million values": ("model.pretrained_cfg.json", b"[" + b"{}," * 999_999 + b"0]", "more than 1,000,000 values"),
    "JSON with Infinity": ("model.pretrained_cfg.json", b'{"crop_pct": Infinity}', "Infinity is no number, or too large"),
    "JSON with a number of 5,000 digits": ("model.pretrained_cfg.json", b'{"a": ' + b"9" * 5000 + b"}", "is no number, or too large"),
}  # fmt: skip


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\x1c", "\x0b"])
def test_line_separators_in_class_names(
    run: Path, row: Row, capfd: pytest.CaptureFixture[str], character: str
) -> None:
    row.fault = f"a class name with U+{ord(character):04X}, which other programs take for a line end"
    row.expected = "one name; those after it keep their classes"
    names = [f"a{character}b", "dog", "bird"]
    (run / "class_names.txt").write_text("\n".join(names), encoding="utf-8")
    assert load_predictor(run).class_names == tuple(names)
    assert main(["predict", str(run), str(run.parent / "image.png"), "--device", "cpu", "--topk=3"]) == 0
    row.seen = capfd.readouterr().out.strip()
    assert row.seen.isprintable() and repr(character)[1:-1] in row.seen


@pytest.mark.parametrize("name", BESIDE)
def test_files_beside_the_weights(run: Path, row: Row, capfd: pytest.CaptureFixture[str], name: str) -> None:
    row.fault, row.expected = f"{name} beside the weights, `beit predict`", "status 2, one line with the file"
    file, content, reason = BESIDE[name]
    if content is None:
        os.mkfifo(run / file)
    else:
        (run / file).write_bytes(content)
    begin = time.monotonic()
    assert main(["predict", str(run), str(run.parent / "image.png"), "--device", "cpu"]) == 2
    row.seconds = time.monotonic() - begin
    out, err = capfd.readouterr()
    row.seen = message(err)
    assert out == "" and reason in row.seen and file in row.seen and len(row.seen) < 500, err


def test_class_names_with_escape_sequences(run: Path, row: Row, capfd: pytest.CaptureFixture[str]) -> None:
    row.fault = "class names with escape sequences and a mark that reverses text, `beit predict`"
    row.expected = "printed as escapes; JSON gives the names back"
    names = ["\x1b[2Jcat", "\x9b31mdog", "bird\u202e"]
    (run / "class_names.txt").write_text("\n".join(names), encoding="utf-8")
    words = ["predict", str(run), str(run.parent / "image.png"), "--device", "cpu"]
    assert main(words) == 0
    said = capfd.readouterr().out
    assert said.strip().isprintable() and r"\x1b[2Jcat" in said
    assert main([*words, "--json"]) == 0
    found = {entry["class"] for entry in json.loads(capfd.readouterr().out)[0]["topk"]}
    assert found == set(names)
    row.seen = said.partition("image.png")[2]
