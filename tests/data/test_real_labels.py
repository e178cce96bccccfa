"""ReaL labels, and class folders that are there for evaluation only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from beit.config import get_config, with_options
from beit.data.image_list import ImageList
from beit.data.real_labels import with_real_labels
from beit.data.splits import open_split
from beit.imagenet_classes import synsets
from beit.preprocessing import exif_orientation_of

NAMES = ["val/ILSVRC2012_val_00000003.JPEG", "val/n01440764/ILSVRC2012_val_00000001.JPEG"]


def real(tmp_path, entries, names=NAMES, num_classes=1000):
    file = tmp_path / "real.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return with_real_labels(ImageList.from_names(Path("data"), names, [5, 6]), file, num_classes)


def test_labels_are_found_by_the_number_in_the_name(tmp_path):
    images = real(tmp_path, [[7, 999], [1], []])
    assert images.labels.shape == (2, 1000) and images.class_names == synsets("imagenet-1k")
    assert [np.flatnonzero(row).tolist() for row in images.labels] == [[], [7, 999]]
    assert "1 of 2 images have no ReaL label" in images.notes[-1]


@pytest.mark.parametrize(
    ("entries", "options", "message"),
    [
        ("[[1], ", {}, r"real\.json is not valid JSON"),
        ({"a": 1}, {}, r"is not real\.json; expected a list"),
        ([[1], [2], [1000]], {}, r"is not real\.json"),
        ([[1], [2], ["3"]], {}, r"is not real\.json"),
        ([[1], [2]], {}, r"00000003\.JPEG has no ReaL labels: .*00000001 to 00000002"),
        ([[1]] * 3, {"names": ["a.jpg", "b.jpg"]}, r"a\.jpg has no ReaL labels"),
        ([[1]] * 3, {"num_classes": 21841}, r"of 1000 classes, the model has 21841"),
    ],
)
def test_errors_name_the_file(tmp_path, entries, options, message):
    with pytest.raises(ValueError, match=message):
        real(tmp_path, entries, **options)


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / f"x{name}.jpg").touch()
    return get_config(
        None, ["DATA.DATASET", "test_folder", "DATA.DATA_PATH", str(root), "MODEL.NUM_CLASSES", 12]
    )


def test_numbers_of_folders_are_the_labels(tmp_path):
    """Sorted as text class 10 would be the second one; all images are evaluated, none is held out."""
    images = open_split(folders(tmp_path, "0", "1", "2", "10", "11"), "val")
    assert images.labels.tolist() == [int(images.name(k).split("/")[0]) for k in range(5)]
    assert sorted(images.labels.tolist()) == [0, 1, 2, 10, 11] and images.class_names is None


def test_names_of_folders_are_those_of_classes(tmp_path):
    images = open_split(folders(tmp_path, "n2", "n1"), "val")
    assert images.class_names == ("n1", "n2") and images.labels.tolist() == [0, 1]


def test_test_folders_are_not_trained_on_and_fit_the_model(tmp_path):
    with pytest.raises(ValueError, match="test_folder is for evaluation"):
        open_split(folders(tmp_path / "a", "1"), "train")
    with pytest.raises(ValueError, match=r"class 12 is not one of MODEL\.NUM_CLASSES=12, which count from 0"):
        open_split(folders(tmp_path / "b", "3", "12"), "val")


def test_photos_of_the_published_sets_are_read_as_stored(tmp_path):
    config = folders(tmp_path, "1")
    assert exif_orientation_of(config) is True
    assert exif_orientation_of(with_options(config, ["MODEL.NUM_CLASSES", 1000])) is None
