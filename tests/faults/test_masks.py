"""Label maps that do not fit their images: never ignored, always named."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.data.sampler import Sample
from beit.data.segmentation import build_segmentation_dataset
from tests.faults.harness import Row
from tests.tiny import tiny_config


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(4):
        save(tmp_path / f"images/train/{number}.jpg", rng.integers(0, 256, (20, 24, 3)))
        save(tmp_path / f"masks/train/{number}.png", rng.integers(0, 3, (20, 24)))
    return tmp_path


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "of another size": (lambda path: save(path, np.zeros((10, 12))), "10"),
    "with ids beyond the classes": (lambda path: save(path, np.full((20, 24), 7)), "7"),
    "in RGB": (lambda path: save(path, np.zeros((20, 24, 3))), "RGB"),
    "that is empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "cut in half": (lambda path: path.write_bytes(path.read_bytes()[:60]), "cannot be decoded"),
    "missing": (lambda path: path.unlink(), "masks"),
    "in a wrong folder": (lambda path: shutil.rmtree(path.parent), "masks"),
}


@pytest.mark.parametrize("name", BAD)
def test_label_maps(scenes: Path, tmp_path: Path, row: Row, name: str) -> None:
    row.fault, row.expected = f"a label map {name}", "refused with the file name"
    change, reason = BAD[name]
    change(scenes / "masks/train/2.png")
    config = tiny_config(scenes, tmp_path / "out", TASK="segment", DATA__DATASET="image_mask")
    with warnings.catch_warnings(), pytest.raises((ValueError, OSError)) as caught:
        warnings.simplefilter("ignore")
        dataset = build_segmentation_dataset(config, "train")
        for number in range(4):
            dataset[Sample(number, number)]
    said = str(caught.value)
    assert reason in said and "\n" not in said and ("2" in said or "masks" in said), said
    row.seen = said.replace(str(tmp_path), "…")
