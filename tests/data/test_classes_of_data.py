"""The number of classes comes from the data unless it is stated; what cannot be trained is said with the fix."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from beit.config import dump, get_config
from beit.config_files import config_folder
from beit.data.classes_of_data import with_classes_of_data
from beit.data.make_lists import make_lists
from beit.data.splits import open_split
from beit.schema import SCHEMA
from beit.tasks.task_keys import TASKS_OF_KEY, unread_keys
from beit.tools import check
from beit.train.recipe_check import rate_problems
from beit.train.run import run
from tests.tiny import TINY, options, write_dataset

NAMES = ("café", "trees", "花")


def write_tree(root, counts=(5, 6, 7)):
    rng = np.random.default_rng(0)
    for name, count in zip(NAMES, counts, strict=False):
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, (18, 20, 3), np.uint8)).save(root / name / f"{k}.png")
    return root


def shipped(data, dataset="folder", *opts):
    """A config that is not stated by the user: a shipped one with small sizes."""
    keys = {key: value for key, value in TINY.items() if key != "MODEL__NUM_CLASSES"}
    keys |= {"DATA__DATA_PATH": str(data), "DATA__DATASET": dataset}
    return get_config("demo_digits", [*options(keys), *opts])


def test_a_stated_number_is_kept(tmp_path):
    data = write_tree(tmp_path / "data")
    assert with_classes_of_data(shipped(data)).MODEL.NUM_CLASSES == 3
    assert with_classes_of_data(shipped(data, "folder", "MODEL.NUM_CLASSES", 10)).MODEL.NUM_CLASSES == 10
    assert (
        with_classes_of_data(shipped(data, "folder", "EVAL", True)).MODEL.NUM_CLASSES == 10
    )  # of the weights
    own = tmp_path / "own.yaml"
    own.write_text(f"BASE: {config_folder() / 'demo_digits.yaml'}\nMODEL: {{NUM_CLASSES: 7}}\n")
    assert with_classes_of_data(get_config(own)).MODEL.NUM_CLASSES == 7
    own.write_text(dump(with_classes_of_data(shipped(data))), encoding="utf-8")  # as a run writes it
    assert not get_config(own).MODEL.NUM_CLASSES_FROM_DATA


@pytest.mark.parametrize("names", [True, False])
def test_list_files_state_their_classes(tmp_path, names):
    data = write_dataset(tmp_path, classes=3)
    if names:
        (data / "class_names.txt").write_text("a\nb\nc\nd\n")
    assert (4 if names else 3) == with_classes_of_data(shipped(data, "imagenet2012")).MODEL.NUM_CLASSES


def test_labels_from_1_are_an_error_with_the_fix(tmp_path):
    data = write_dataset(tmp_path, classes=3)
    for split in ("train", "val"):
        file = data / f"{split}_list.txt"
        pairs = [line.rsplit(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{name} {int(label) + 1}\n" for name, label in pairs))
    with pytest.raises(
        ValueError, match=r"count from 1 \(1 to 3\): subtract 1 from each, or .*NUM_CLASSES 4"
    ):
        with_classes_of_data(shipped(data, "imagenet2012"))


def test_one_deep_class_folder_is_an_error_with_the_fix(tmp_path):
    write_tree(tmp_path / "data" / "photos")
    with pytest.raises(ValueError, match="one class, .* name that folder as -data_path"):
        with_classes_of_data(shipped(tmp_path / "data"))


def test_a_tree_without_splits_is_split_as_make_lists_does(tmp_path):
    data = write_tree(tmp_path / "data")
    config = with_classes_of_data(shipped(data))
    parts = {split: open_split(config, split) for split in ("train", "val")}
    found = {split: {part.name(k) for k in range(len(part))} for split, part in parts.items()}
    make_lists(data)
    for split in found:
        lines = (data / f"{split}_list.txt").read_text(encoding="utf-8").splitlines()
        assert found[split] == {line.rsplit(" ", 1)[0] for line in lines}
        assert "20 % of each class are held out" in parts[split].notes[-1]
    assert not found["train"] & found["val"] and len(found["val"]) == 3
    assert parts["val"].class_names == NAMES


def test_a_run_takes_the_number_and_says_what_top5_means(tmp_path):
    config = shipped(
        write_tree(tmp_path / "data"), "folder", "SAVE", str(tmp_path / "out"), "TRAIN.NUM_EPOCHS", 1
    )
    run(config)
    stored = get_config(tmp_path / "out" / "config.yaml")
    assert (stored.MODEL.NUM_CLASSES, stored.MODEL.NUM_CLASSES_FROM_DATA) == (3, False)
    log = (tmp_path / "out" / "log.txt").read_text(encoding="utf-8")
    assert "with 3 classes top5 is 100 % for every model" in log
    assert "20 % of each class are held out" in log


@pytest.mark.parametrize(
    ("peak", "keys", "learns"),
    [
        (7.8e-6, {}, False),
        (5e-4, {}, True),
        (6e-5, {"MODEL.PRETRAINED": "w.pdparams"}, True),
        (5e-7, {"MODEL.PRETRAINED": "w.pdparams"}, False),
        (0.0, {"TASK": "probe"}, True),  # a probe has its own optimizer
    ],
)
def test_a_rate_that_learns_nothing_is_named(peak, keys, learns):
    config = get_config(None, [item for pair in keys.items() for item in pair])
    assert (rate_problems(config, peak) == []) == learns


def test_check_names_the_rate_of_the_tiny_model_and_keys_without_effect(tmp_path, capsys):
    data = write_tree(tmp_path / "data")
    given = [
        "-cfg=beit_tiny_patch16_224",
        "-dataset=folder",
        f"-data_path={data}",
        "-batch_size=8",
        "-device=cpu",
    ]
    opts = [
        "TRAIN.LINEAR_SCALED_LR",
        "1024",
        "PROBE.NEIGHBORS",
        "7",
        "TRAIN.WARMUP_EPOCHS",
        "1",
        "MODEL.DEPTH",
        "1",
    ]
    assert check.main([*given, "--skip-step", "--skip-pictures", "-opts", *opts]) == 1
    shown = capsys.readouterr().out
    assert "almost nothing is learned from random weights with a peak rate of 3.9e-06" in shown
    assert "TRAIN.LINEAR_SCALED_LR to None" in shown
    assert "PROBE.NEIGHBORS = 7 has no effect in TASK: classify, only in knn; leave it out" in shown


def test_no_shipped_config_states_a_key_that_its_task_does_not_read():
    assert set(TASKS_OF_KEY) <= set(SCHEMA)
    files = [file for file in config_folder().rglob("*.yaml") if file.parent.name not in ("_base_", "beit")]
    assert {file.name: unread_keys(get_config(file)) for file in files if unread_keys(get_config(file))} == {}


def test_classes_of_images_with_several_labels(tmp_path):
    several = ("TASK", "multilabel", "TRAIN.LOSS", "bce")
    (tmp_path / "train_list.txt").write_text("a.png 1,0\nb.png -\n")
    (tmp_path / "val_list.txt").write_text("c.png 3,1\n")
    assert with_classes_of_data(shipped(tmp_path, "imagenet2012", *several)).MODEL.NUM_CLASSES == 4
    (tmp_path / "train_list.txt").write_text("a.png 1,2\n")
    with pytest.raises(ValueError, match=r"seem to count from 1 \(1 to 3\)"):
        with_classes_of_data(shipped(tmp_path, "imagenet2012", *several))
    (tmp_path / "train.csv").write_text("path,labels\na.png,dog cat\nb.png,emu\n")
    assert with_classes_of_data(shipped(tmp_path, "csv", *several)).MODEL.NUM_CLASSES == 3
