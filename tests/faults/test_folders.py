"""Folders of images that repeat or hide some of them, and states of training that another program wrote."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from beit.checkpoint.files import read_checkpoint, write_checkpoint
from beit.train.run import run as run_here
from tests.faults.harness import LATEST, Row
from tests.tiny import tiny_config, write_dataset


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """24 training and 9 validation images as class folders."""
    lists = write_dataset(tmp_path / "lists", train=24, val=9)
    for split in ("train", "val"):
        for line in (lists / f"{split}_list.txt").read_text(encoding="utf-8").splitlines():
            name, _, label = line.rpartition(" ")
            target = tmp_path / "data" / split / f"class {label}"
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(lists / name, target / Path(name).name)
    return tmp_path / "data"


def evaluate(folders: Path, weights: Path, output: Path) -> dict[str, Any]:
    return run_here(
        tiny_config(folders, output, DATA__DATASET="folder", EVAL=True, MODEL__PRETRAINED=str(weights))
    )


@pytest.fixture
def weights(folders: Path, tmp_path: Path) -> Path:
    run_here(
        tiny_config(
            folders, tmp_path / "run", DATA__DATASET="folder", TRAIN__MAX_STEPS=1, TRAIN__WARMUP_EPOCHS=0
        )
    )
    return tmp_path / "run" / "model.pdparams"


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_parent_folder(
    folders: Path, weights: Path, tmp_path: Path, row: Row, target: str
) -> None:
    row.fault, row.expected = (
        f"a link to {target} among the validation images",
        "the same images and metric as without it",
    )
    before = evaluate(folders, weights, tmp_path / "before")
    (folders / "val/class 0/loop").symlink_to(target)
    after = evaluate(folders, weights, tmp_path / "after")
    assert all(before[name] == after[name] for name in ("top1", "top5", "loss", "count"))
    assert after["count"] == 9
    row.seen = f"{after['count']:g} images, top-1 {after['top1']:.2f} both times"


def test_an_unreadable_folder(
    folders: Path, weights: Path, tmp_path: Path, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    row.fault, row.expected = (
        "a sub-folder of the validation images cannot be read",
        "refused; no metric is written",
    )
    hidden = folders / "val/class 1/more"
    hidden.mkdir()
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path) == str(hidden.resolve()):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(OSError, match="cannot be read: Permission denied") as caught:
        evaluate(folders, weights, tmp_path / "out")
    assert not (tmp_path / "out" / "eval.json").exists()
    row.seen = str(caught.value)


FOREIGN: dict[str, Any] = {
    "model": {"w": 1.0}, "optimizer": 3, "scaler": {"scale": "x"}, "step": -1, "best": "x", "order": {"images": None},
    "config": "[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("entry", FOREIGN)
def test_a_state_of_another_program(folders: Path, tmp_path: Path, row: Row, entry: str) -> None:
    row.fault, row.expected = (
        f"-resume of a state with a valid checksum and a foreign {entry!r}",
        "one line; the folder is left as it is",
    )
    output = tmp_path / "run"
    keys = {"DATA__DATASET": "folder", "TRAIN__MAX_STEPS": 2, "TRAIN__WARMUP_EPOCHS": 0}
    run_here(tiny_config(folders, output, **keys))
    write_checkpoint(output / LATEST, read_checkpoint(output / LATEST) | {entry: FOREIGN[entry]})
    before = {
        file.name: file.read_bytes() for file in output.iterdir() if file.suffix in (".yaml", ".pdparams")
    }
    with pytest.raises((ValueError, OSError)) as caught:
        run_here(tiny_config(folders, output, **keys | {"MODEL__RESUME": str(output / LATEST)}))
    said = str(caught.value)
    assert said.isprintable() and len(said) < 1000
    assert before == {name: (output / name).read_bytes() for name in before}
    row.seen = said
