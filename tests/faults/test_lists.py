"""List files as people and their tools write them, and data that changes between a run and its resume."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import pytest

from beit.data.list_file import read_list_file
from beit.data.loader import Loader
from beit.data.sampler import Sample
from tests.faults.harness import Row, finish, message, succeed
from tests.faults.worker_memory import MemoryDataset
from tests.tiny import command, different_weights, write_dataset

LINES = 1_000_000


def rewrite(root: Path, split: str, change: object) -> Path:
    file = root / f"{split}_list.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_bytes(change(lines))  # type: ignore[operator]
    return root


SAME = {
    "byte order mark": lambda lines: b"\xef\xbb\xbf" + "\n".join(lines).encode(),
    "CRLF, trailing spaces, empty lines": lambda lines: "\r\n".join(
        f"{line}  \t\r\n" for line in lines
    ).encode(),
    "tabs between the columns": lambda lines: "\n".join(
        "\t".join(line.rsplit(" ", 1)) for line in lines
    ).encode(),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    succeed(command("main_single_gpu.py", write_dataset(folder / "data"), folder / "run"), folder / "run")
    return folder / "run"


def test_spellings(tmp_path: Path, row: Row, plain: Path) -> None:
    row.fault, row.expected = (
        ", ".join(SAME) + " (all at once in the two lists)",
        "the same bytes as with the plain list",
    )
    root = write_dataset(tmp_path / "data")
    rewrite(root, "train", lambda lines: SAME["byte order mark"](lines).replace(b"\n", b" \t\r\n\r\n"))
    rewrite(root, "val", SAME["tabs between the columns"])
    succeed(command("main_single_gpu.py", root, tmp_path / "run"), tmp_path / "run")
    assert different_weights(plain, tmp_path / "run") == []
    row.seen = "bytes equal"


WRONG = {
    "label is not an integer": (
        lambda lines: "\n".join([*lines[:6], "my images/train_6.png cat"]),
        r":7: label 'cat' is not an integer",
    ),
    "negative label": (
        lambda lines: "\n".join([*lines[:6], "my images/train_6.png -1"]),
        ":7: negative label -1, labels count from 0",
    ),
    "label beyond the classes": (
        lambda lines: "\n".join([*lines, "my images/train_6.png 7"]),
        ":25: label 7 for MODEL.NUM_CLASSES=3",
    ),
    "labels from 1": (
        lambda lines: "\n".join(f"{line[:-1]}{int(line[-1]) + 1}" for line in lines),
        "the labels seem to count from 1: subtract 1",
    ),
    "no label": (lambda lines: "\n".join(["my_images/train_6.png", *lines]), ":1: one column"),
    "CSV": (
        lambda lines: "\n".join(line.replace("my images", "my_images").replace(" ", ",") for line in lines),
        "separate the columns by a blank or tab",
    ),
    "absolute path": (
        lambda lines: "\n".join([*lines, "/etc/passwd 1"]),
        ":25: path '/etc/passwd' leaves the data folder",
    ),
    "path with ..": (lambda lines: "\n".join([*lines, "my images/../../x.png 1"]), "leaves the data folder"),
    "Windows path": (lambda lines: "\n".join([*lines, "C:\\x.png 1"]), "leaves the data folder"),
    "empty file": (lambda lines: "", "is empty; expected lines"),
    "blank lines only": (lambda lines: "\n \t\n\r\n", "is empty; expected lines"),
    "GBK instead of UTF-8": (
        lambda lines: "\n".join(lines) + "\nmy images/\u732b\u54aa.png 1",
        ":25: not UTF-8",
    ),
    "escape sequence in a path": (
        lambda lines: "\n".join([*lines, "/\x1b[2J.png 1"]),
        "leaves the data folder",
    ),
    "500,000 blanks before a path": (
        lambda lines: "\n".join([*lines, " " * 500_000 + "/x.png 1"]),
        "leaves the data folder",
    ),
    "binary": (lambda lines: "\0\1\2" * 100, "train_list.txt:1: "),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_lines(tmp_path: Path, row: Row, name: str) -> None:
    row.fault, row.expected = f"list: {name}", "refused with file and line"
    change, reason = WRONG[name]
    root = write_dataset(tmp_path / "data")
    rewrite(root, "train", lambda lines: change(lines).encode("gbk" if "GBK" in name else "utf-8"))
    begin = time.process_time()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is compared below)
        read_list_file(root / "train_list.txt", root, 3)
    row.seconds = time.process_time() - begin
    said = str(caught.value)
    assert reason.removeprefix("r") in said and said.isprintable() and len(said) < 1000, said
    assert row.seconds < 5
    row.seen = str(caught.value).replace(str(root), "…")


def test_wrong_list_through_the_command(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "label beyond the classes, through the command, two ranks",
        "status 2 and one line before the first step",
    )
    root = write_dataset(tmp_path / "data")
    rewrite(root, "train", lambda lines: "\n".join([*lines, "my images/train_6.png 7"]).encode())
    status, text, row.seconds = finish(
        command("main_multi_gpu.py", root, tmp_path / "run", "-nprocs=2", RANK_GRACE=2.0), tmp_path / "run"
    )
    assert status == 2 and "label 7 for MODEL.NUM_CLASSES=3" in text and "Traceback" not in text, text[-1500:]
    row.seen = next(line for line in text.splitlines() if "label 7" in line)


def test_missing_file(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "half of the listed files do not exist",
        "status 2 before the first step, with the count and the first name",
    )
    root = write_dataset(tmp_path / "data")
    for number in range(0, 24, 2):
        (root / "my images" / f"train_{number}.png").unlink()
    status, text, row.seconds = finish(
        command("main_single_gpu.py", root, tmp_path / "run"), tmp_path / "run"
    )
    assert status == 2 and "Traceback" not in text, text[-1500:]
    assert (
        "12 of 24 listed images do not exist, first" in text
        and "train_0.png" in text
        and " step 1/" not in text
    ), text[-1500:]
    row.seen = message(text)


def test_one_missing_file(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "one listed validation file does not exist",
        "status 2 before the first step: an evaluation needs all images",
    )
    root = write_dataset(tmp_path / "data")
    (root / "my images" / "val_5.png").unlink()
    status, text, row.seconds = finish(
        command("main_single_gpu.py", root, tmp_path / "run"), tmp_path / "run"
    )
    assert status == 2 and "val_5.png" in text and "Traceback" not in text and " step 1/" not in text, text[
        -1500:
    ]
    row.seen = message(text)


def test_duplicates_and_overlap(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "3 lines repeat an image, one with another label; 2 validation images are training images",
        "warnings with the counts; the run continues",
    )
    root = write_dataset(tmp_path / "data")
    rewrite(root, "train", lambda lines: "\n".join([*lines, *lines[:2], "my images/train_2.png 1"]).encode())
    train = (root / "train_list.txt").read_text(encoding="utf-8").splitlines()
    rewrite(root, "val", lambda lines: "\n".join([*lines, *train[4:6]]).encode())
    text = succeed(command("main_single_gpu.py", root, tmp_path / "run"), tmp_path / "run")
    assert "3 of 27 lines repeat an image, 1 of them with another label" in text
    assert "warning: 2 of 12 validation images are also training images" in text
    row.seen = "3 of 27 lines repeat an image, 1 of them with another label; 2 of 12 validation images are also training images"


@pytest.mark.parametrize("change", ["another order", "another label", "another name"])
def test_data_changes_between_resumes(tmp_path: Path, row: Row, change: str) -> None:
    row.fault, row.expected = (
        f"the list has {change} at the resume, as many lines as before",
        "refused, status 2: the data changed",
    )
    root = write_dataset(tmp_path / "data")
    succeed(command("main_single_gpu.py", root, tmp_path / "run", TRAIN__NUM_EPOCHS=1), tmp_path / "run")
    edits = {
        "another order": lambda lines: "\n".join([lines[1], lines[0], *lines[2:]]).encode(),
        "another label": lambda lines: "\n".join([*lines[:-1], f"{lines[-1][:-1]}0"]).encode(),
        "another name": lambda lines: "\n".join(["my images/val_0.png 0", *lines[1:]]).encode(),
    }
    rewrite(root, "train", edits[change])
    status, text, row.seconds = finish(
        command("main_single_gpu.py", root, tmp_path / "run", "-resume=auto"), tmp_path / "run"
    )
    assert status == 2 and "the data changed: list of images" in text and "Traceback" not in text, text[
        -1500:
    ]
    row.seen = message(text)[-200:]


def test_a_million_lines(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        f"a list of {LINES:,} lines, 2 workers",
        "opened in seconds; less than 100 MB per worker",
    )
    file = tmp_path / "train_list.txt"
    with file.open("w", encoding="utf-8") as out:
        for start in range(0, LINES, 10000):
            out.write(
                "".join(
                    f"train/n{n % 1000:08d}/n{n % 1000:08d}_{n:08d}.JPEG {n % 1000}\n"
                    for n in range(start, start + 10000)
                )
            )
    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = read_list_file(file, tmp_path, 1000)
    opened = time.process_time() - begin
    assert len(images) == LINES and images.name(777_777).endswith("_00777777.JPEG")
    begin = time.monotonic()
    print_ = images.fingerprint()
    hashed = time.monotonic() - begin
    assert len(print_) == 16
    with Loader(MemoryDataset(images), num_workers=2) as loader:
        begin = time.monotonic()
        private = [float(batch["private"].max()) for batch in loader([[Sample(n, n)] * 8 for n in range(8)])]
        ready = time.monotonic() - begin
    assert opened < 20 and max(private) < 100, (opened, private)
    row.seen = f"{file.stat().st_size / 1e6:.0f} MB read and checked in {opened:.1f} s, fingerprint {hashed:.2f} s, workers ready in {ready:.1f} s with {max(private):.0f} MB each"
