"""CSV files of images with one or several labels."""

from __future__ import annotations

import numpy as np
import pytest

from beit.data.csv_file import read_csv_file

COLUMNS = {
    "train": "image,cat,red dog,emu\na.jpg,1,0,1\nb.jpg,0,0,0\n",
    "val": 'p,emu,cat,red dog\n"c, d.jpg",1,0,0\n',
}
NAMES = {
    "train": "path,labels\na.jpg,red dog|cat\nb.jpg,\ne.jpg,emu\n",
    "val": "path,labels\nc.jpg,red dog\n",
}


def read(root, split="train", num_classes=None, **options):
    return read_csv_file(root, split, num_classes, **{"multi_label": True} | options)


def write(root, **texts):
    for name, text in texts.items():
        (root / f"{name}.csv").write_text(text, encoding="utf-8-sig")
    return root


def test_a_column_for_each_class(tmp_path):
    train = read(write(tmp_path, **COLUMNS))
    assert train.class_names == ("cat", "red dog", "emu") and train.labels.dtype == bool
    assert train.labels.tolist() == [[True, False, True], [False] * 3]
    val = read(tmp_path, "val")
    assert val.class_names == train.class_names
    assert (val.name(0), val.labels.tolist()) == ("c, d.jpg", [[False, False, True]])
    assert val.path(0) == tmp_path / "c, d.jpg"


def test_one_column_with_names(tmp_path):
    """The separator that the training file has also counts in a validation file without any."""
    train = read(write(tmp_path, **NAMES))
    assert train.class_names == ("cat", "emu", "red dog")
    assert train.labels.tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    assert read(tmp_path, "val").labels.tolist() == [[False, False, True]]


@pytest.mark.parametrize("cell", ["dog cat", "dog|cat", "dog ; cat", '"dog, cat"', "cat  dog", "cat|dog|cat"])
def test_separators_of_names(tmp_path, cell):
    images = read(write(tmp_path, train=f"path,labels\na.jpg,{cell}\n"))
    assert images.class_names == ("cat", "dog") and images.labels.tolist() == [[True, True]]


def test_numbers_as_names_are_sorted_as_class_folders_are(tmp_path):
    assert read(write(tmp_path, train="path,labels\na.jpg,10 9\nb.jpg,2\n")).class_names == ("2", "9", "10")


def test_class_names_file_gives_the_order(tmp_path):
    (tmp_path / "class_names.txt").write_text("red dog\nemu\ncat\n")
    assert read(write(tmp_path, **NAMES)).class_names == ("red dog", "emu", "cat")
    (tmp_path / "train.csv").unlink()
    assert read(tmp_path, "val").labels.tolist() == [[True, False, False]]
    columns = read(write(tmp_path, **COLUMNS), "val")
    assert (columns.class_names, columns.labels.tolist()) == (
        ("red dog", "emu", "cat"),
        [[False, True, False]],
    )


def test_a_class_named_twice_has_no_label(tmp_path):
    (tmp_path / "class_names.txt").write_text("cat\nemu\nred dog\ncat\n")
    with pytest.raises(ValueError, match=r"class_names\.txt: a class is named twice"):
        read(write(tmp_path, **NAMES))


def test_one_label_for_each_image(tmp_path):
    """Names may then contain every separator."""
    write(tmp_path, train='path,label\na.jpg,"dog, red"\nb.jpg,cat|x\n')
    images = read(tmp_path, multi_label=False)
    assert images.class_names == ("cat|x", "dog, red")
    assert images.labels.tolist() == [1, 0] and images.labels.dtype == np.int64
    write(tmp_path, train="path,dog,cat\na.jpg,0,1\nb.jpg,1,0\n")
    assert read(tmp_path, multi_label=False).labels.tolist() == [1, 0]


def test_labels_can_be_left_out(tmp_path):
    images = read(write(tmp_path, **NAMES), labeled=False)
    assert images.labels is None and [images.name(k) for k in range(3)] == ["a.jpg", "b.jpg", "e.jpg"]


def test_there_may_be_no_file(tmp_path):
    assert read(write(tmp_path, train=NAMES["train"]), "val") is None


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ({"train": "path,a,b\nx.jpg,1,2\n"}, {}, r"train\.csv:2: '2' in the column b; expected 0 or 1"),
        ({"train": "path,a,b\nx.jpg,1,\n"}, {}, r":2: '' in the column b"),
        ({"train": "path,a,b\nx.jpg,1\n"}, {}, r":2: 2 columns, expected a path and 2 more"),
        ({"train": "path,a,b\n,1,0\n"}, {}, r":2: 3 columns, expected a path"),
        ({"train": "path,a,a\nx.jpg,1,0\n"}, {}, r"titles of columns must be different and not empty; got a, a"),
        ({"train": "path;a\nx.jpg;1\n"}, {}, r"the first with 1 columns; expected .* separated by commas"),
        ({"train": "path,a\n"}, {}, r"has 1 lines"),
        ({"train": "x.JPG,cat\ny.jpg,dog\n"}, {}, r"the first line must have titles, .*; it has the image x\.JPG"),
        ({"train": ",path,a\n0,x.jpg,b\n"}, {}, r"the first column has no title; .* index=False"),
        ({"train": 'path,a\nx.jpg,"b\nc"\n'}, {}, r":3: line break or control character in b\\nc"),
        ({"train": 'path,a,"b\x1b"\nx.jpg,1,0\n'}, {}, r":1: line break or control character in b\\x1b"),
        ({"train": "path,a\nx.jpg,\n"}, {}, r"train\.csv names no class"),
        ({"train": 'path,a\n"x.jpg,b\n'}, {}, r"not valid CSV"),
        ({"train": "path,a\n../x.jpg,b\n"}, {}, r"path '\.\./x\.jpg' leaves the data folder"),
        (COLUMNS, {"num_classes": 2}, r"has 3 classes for MODEL\.NUM_CLASSES=2; say `-opts MODEL\.NUM_CLASSES 3`"),
        (COLUMNS | {"val": "path,cat,emu\nc.jpg,1,0\n"}, {}, r"val\.csv does not have the columns .*: red dog"),
        (NAMES | {"val": "path,labels\nc.jpg,cow\n"}, {"split": "val"}, r"val\.csv:2: 'cow' is not one of the 3 classes"),
        ({"val": NAMES["val"]}, {"split": "val"}, r"add train\.csv, or class_names\.txt"),
        (NAMES | {"val": COLUMNS["val"]}, {}, r"val\.csv has more than two columns"),
        (COLUMNS, {"multi_label": False}, r"train\.csv:2: 2 labels, expected one .*TASK multilabel TRAIN\.LOSS bce"),
        (NAMES, {"multi_label": False}, r"train\.csv:3: 0 labels, expected one"),
    ],
)  # fmt: skip
def test_errors_name_the_file_and_the_line(tmp_path, texts, options, message):
    write(tmp_path, **texts)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **options)


def test_repeated_images_are_named(tmp_path):
    with pytest.warns(UserWarning, match=r"1 of 3 lines repeat an image, 1 of them with another label"):
        read(write(tmp_path, train="path,a,b\nx.jpg,1,0\nx.jpg,0,1\ny.jpg,1,0\n"), multi_label=False)
    with pytest.warns(UserWarning, match=r"1 of 3 lines repeat an image$"):
        read(write(tmp_path, train="path,a,b\nx.jpg,1,0\nx.jpg,1,0\ny.jpg,1,0\n"))


def test_a_line_for_each_label_of_an_image_is_refused(tmp_path):
    write(tmp_path, train="path,label\nx.jpg,a\ny.jpg,b\nx.jpg,b\n")
    with pytest.raises(
        ValueError, match=r"train\.csv:4: x\.jpg has other labels than in a line above; write all"
    ):
        read(tmp_path)
