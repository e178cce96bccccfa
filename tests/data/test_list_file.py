from __future__ import annotations

import pickle
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.data.list_file import read_class_names, read_list_file
from tests.data.packed import rows


def read(tmp_path, content, num_classes=10):
    file = tmp_path / "train_list.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_list_file(file, tmp_path, num_classes)


def test_plain_lines(tmp_path):
    images = read(tmp_path, "train/n01/a.JPEG 3\ntrain/n02/b.JPEG 0\n")
    assert rows(images) == [("train/n01/a.JPEG", 3), ("train/n02/b.JPEG", 0)]
    assert len(images) == 2
    assert images.path(1) == tmp_path / "train/n02/b.JPEG"
    assert images.labels.dtype == np.int64 and images.offsets.dtype == np.uint32


@pytest.mark.parametrize(
    "content",
    [
        "a b.jpg 3\nc.jpg 4",  # no line break at the end
        "\ufeffa b.jpg 3\nc.jpg 4\n",
        "a b.jpg 3\r\nc.jpg 4\r\n",
        "a b.jpg\t3\nc.jpg\t \t4\n",
        "  a b.jpg 3 \t\n\tc.jpg   4  \r\n",
        "\n\n \t \na b.jpg 3\n\r\n\nc.jpg 4\n\n",
        "a b.jpg 03\nc.jpg 0004\n",
    ],
)
def test_accepted_spellings(tmp_path, content):
    assert rows(read(tmp_path, content)) == [("a b.jpg", 3), ("c.jpg", 4)]


def test_names_that_are_not_ascii(tmp_path):
    images = read(tmp_path, "类别/猫 1.jpg 1\n類/é.jpg 2\n")
    assert rows(images) == [("类别/猫 1.jpg", 1), ("類/é.jpg", 2)]


name = st.text(st.characters(exclude_characters="\n\r\t\v\f \0/\\:", exclude_categories=["Cs"]), min_size=1)
names = (
    st.lists(name, min_size=1, max_size=4)
    .map(" ".join)
    .filter(lambda text: text != ".." and "\ufeff" not in text)
)


@given(
    st.lists(st.tuples(names, st.integers(0, 999)), min_size=1, max_size=20),
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_written_lines_are_read_back(tmp_path_factory, lines, line_end):
    tmp_path = tmp_path_factory.mktemp("lists", numbered=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicates
        images = read(tmp_path, line_end.join(f"{path} {label}" for path, label in lines), 1000)
    assert rows(images) == lines


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a.jpg 1\n\nb.jpg\n", r"train_list.txt:3: one column 'b.jpg', expected `path label`$"),
        ("a.jpg,1\n", r":1: one column 'a.jpg,1', .*separate the columns by a blank or tab"),
        ("a.jpg 1\nb.jpg x1\n", r":2: label 'x1' is not an integer"),
        ("a.jpg 1.0\n", r":1: label '1.0' is not an integer"),
        ("a.jpg +1\n", r":1: label '\+1' is not an integer"),
        ("a.jpg 1234567890123456789\n", r":1: label '1234567890123456789' is not an integer"),
        (
            "a.jpg 1\nb.jpg -1\nc.jpg -1\n",
            r":2: negative label -1, labels count from 0 \(1 more such lines\)",
        ),
        ("7\n", r":1: one column '7'"),
        (
            "a.jpg 3\nb.jpg 12\n",
            r":2: label 12 for MODEL.NUM_CLASSES=10 .*: 3 to 12\); .*-opts MODEL.NUM_CLASSES 13",
        ),
        ("a.jpg 1\nb.jpg 10\n", r":2: label 10 .*seem to count from 1: subtract 1"),
        ("a.jpg 1\n/etc/b.jpg 1\n", r":2: path '/etc/b.jpg' leaves the data folder"),
        ("a/../../b.jpg 1\n", r":1: path 'a/../../b.jpg' leaves the data folder; paths must be relative to"),
        ("a..b.jpg 1\n.. 1\n", r":2: path '..' leaves"),
        ("C:\\b.jpg 1\n", r":1: path .* leaves the data folder"),
        ("\\b.jpg 1\n", r":1: path .* leaves the data folder"),
        ("", r"train_list.txt is empty; expected lines `path label`"),
        (" \n\r\n\t\n", r"train_list.txt is empty"),
        (b"a.jpg 1\n\xc3\xa8\xb1\xea.jpg 1\n", r":2: not UTF-8 \(bytes .*iconv -f GBK"),
        ("a.jpg 1\n".encode("utf-16"), r":1: not UTF-8"),
    ],
)
def test_errors_of_bad_lists_name_file_and_line(tmp_path, content, match):
    with pytest.raises(ValueError, match=match):
        read(tmp_path, content)


def test_dots_in_names_are_accepted(tmp_path):
    lines = [("a..b.jpg", 1), ("...", 2), ("..a/b...jpg", 3), ("x:y.jpg", 4)][:3]
    assert rows(read(tmp_path, "".join(f"{path} {label}\n" for path, label in lines))) == lines


def test_a_missing_list_and_a_folder_in_its_place_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="train_list.txt does not exist; expected a text file"):
        read_list_file(tmp_path / "train_list.txt", tmp_path, 10)
    with pytest.raises(FileNotFoundError, match="is a folder"):
        read_list_file(tmp_path, tmp_path, 10)


def test_only_ascii_blanks_separate(tmp_path):
    assert rows(read(tmp_path, "a\u00a0b\u2028c\x1c.jpg 3\n")) == [("a\u00a0b\u2028c\x1c.jpg", 3)]
    with pytest.raises(ValueError, match=r":1: one column 'a\.jpg\\xa03'"):
        read(tmp_path, "a.jpg\u00a03\n")


def test_many_blanks_take_linear_time(tmp_path):
    blanks = " " * 4_000_000
    begin = time.process_time()
    images = read(tmp_path, f"{blanks}a.jpg{blanks}3{blanks}\n" + "\n" * 1_000_000 + f"\t{blanks}b.jpg 4\n")
    assert time.process_time() - begin < 5  # quadratic time would be hours
    assert rows(images) == [("a.jpg", 3), ("b.jpg", 4)]


def test_duplicates_are_counted(tmp_path):
    with pytest.warns(UserWarning, match=r"2 of 4 lines repeat an image, 1 of them with another label"):
        assert len(read(tmp_path, "a.jpg 1\na.jpg 1\nb.jpg 1\na.jpg 2\n")) == 4
    with pytest.warns(UserWarning, match=r"1 of 2 lines repeat an image$"):
        read(tmp_path, "a.jpg 1\na.jpg 1\n")


def test_a_large_list_is_small_when_pickled(tmp_path):
    content = "".join(f"train/n{k:04d}/image.JPEG {k}\n" for k in range(5000))
    images = read(tmp_path, content, 5000)
    data = pickle.dumps(images)
    assert len(data) < len(content) + 12 * 5000 + 2000  # names, 4-byte offsets, 8-byte labels
    assert rows(pickle.loads(data)) == rows(images)
    assert pickle.loads(data).root == Path(tmp_path)


def test_class_names(tmp_path):
    file = tmp_path / "class_names.txt"
    file.write_text("\ufefftench, Tinca tinca\r\n\ngold fish \n", encoding="utf-8")
    assert read_class_names(file, 2) == ("tench, Tinca tinca", "gold fish")
    with pytest.raises(
        ValueError, match=r"has 2 class names for MODEL.NUM_CLASSES=3.*-opts MODEL.NUM_CLASSES 2"
    ):
        read_class_names(file, 3)
    file.write_bytes(b"a\n\xff\n")
    with pytest.raises(ValueError, match=":2: not UTF-8"):
        read_class_names(file, 2)


@pytest.mark.parametrize("padding", [b" ", b"\t", b"\r", b"a"])
def test_a_line_of_megabytes_is_read_in_time_proportional_to_it(tmp_path, padding):
    file = tmp_path / "list.txt"
    file.write_bytes(padding * 3_000_000 + b"a.png 0\n")
    begin = time.process_time()
    images = read_list_file(file, tmp_path, 1)
    assert len(images) == 1 and time.process_time() - begin < 5


def test_several_labels(tmp_path):
    (tmp_path / "train_list.txt").write_text("my images/a.jpg 3,0\nb.jpg -\nc.jpg\t1\n")
    images = read_list_file(tmp_path / "train_list.txt", tmp_path, None, multi_label=True)
    assert images.labels.dtype == bool
    assert [np.flatnonzero(row).tolist() for row in images.labels] == [[0, 3], [], [1]]
    assert [images.name(k) for k in range(3)] == ["my images/a.jpg", "b.jpg", "c.jpg"]
    wide = read_list_file(tmp_path / "train_list.txt", tmp_path, 9, multi_label=True)
    assert wide.labels.shape == (3, 9) and wide.labels.sum() == 3
    assert wide.fingerprint() != images.fingerprint()
    unlabeled = read_list_file(tmp_path / "train_list.txt", tmp_path, None, labeled=False)
    assert unlabeled.labels is None and unlabeled.name(1) == "b.jpg"


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("a.jpg 1\nb.jpg 1,2,1\n", r":2: a label is given twice"),
        ("a.jpg 0,0,1,1\n", r":1: a label is given twice.* as PaddleClas has them, are read from CSV"),
        ("a.jpg 1\nb.jpg 1,10\n", r":2: label 10 for MODEL.NUM_CLASSES=10 .*: 1 to 10\)"),
        ("a.jpg 1,\n", r":1: label '1,' is not an integer, expected `path 3,7`"),
        ("a.jpg 1,x\n", r":1: label '1,x' is not an integer"),
        ("a.jpg\n", r":1: one column 'a.jpg', expected `path 3,7`"),
    ],
)
def test_errors_of_several_labels(tmp_path, content, match):
    (tmp_path / "train_list.txt").write_text(content)
    with pytest.raises(ValueError, match=match):
        read_list_file(tmp_path / "train_list.txt", tmp_path, 10, multi_label=True)


def test_several_labels_need_their_task(tmp_path):
    with pytest.raises(
        ValueError, match=r":1: 1,2 are several labels; .* `-opts TASK multilabel TRAIN\.LOSS bce`"
    ):
        read(tmp_path, "a.jpg 1,2\n")
