"""The files that the examples of the help texts name: data, images, a finished run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from beit.beit import build_beit
from beit.checkpoint.files import write
from beit.config import dump, get_config

CLASSES = 10


def draw(rng: np.random.Generator, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """An image of noise."""
    return Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))


def write_example_folder(root: Path) -> Path:
    """`digits/` (list files, 40 + 10 images), `output/run` (weights, config, names, metrics), `photo.jpg`, `pictures/`,
    `more/`, `flowers/<class>/`, `numbered/<label>/`; returns the folder."""
    rng = np.random.default_rng(0)
    (root / "digits" / "images").mkdir(parents=True)
    for split, count in (("train", 40), ("val", 10)):
        lines = []
        for number in range(count):
            name = f"images/{split}_{number}.png"
            draw(rng).save(root / "digits" / name)
            lines.append(f"{name} {number % CLASSES}\n")
        (root / "digits" / f"{split}_list.txt").write_text("".join(lines))
    draw(rng, (60, 80)).save(root / "photo.jpg")
    for name in ("pictures/a.png", "pictures/deeper/b.jpg", "more/c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        draw(rng).save(root / name)
    for kind, count in (("daisy", 5), ("rose", 3)):
        (root / "flowers" / kind).mkdir(parents=True)
        for number in range(count):
            draw(rng).save(root / "flowers" / kind / f"{number}.png")
    for label in (3, 7):
        (root / "numbered" / f"{label}").mkdir(parents=True)
        draw(rng).save(root / "numbered" / f"{label}" / "a.png")
    run = root / "output" / "run"
    run.mkdir(parents=True)
    config = get_config("demo_digits", ["DATA.DATA_PATH", "digits", "DATA.NUM_WORKERS", 0])
    (run / "config.yaml").write_text(dump(config))
    (run / "class_names.txt").write_text("".join(f"digit {k}\n" for k in range(CLASSES)))
    state = build_beit(config).state_dict()
    write(run / "model.pdparams", {name: value.numpy() for name, value in state.items()})
    lines = [
        f'{{"time": 1.0, "step": {k}, "train/loss": {2 - k / 10}, "val/loss": {2 - k / 20}}}\n'
        for k in range(5)
    ]
    (run / "metrics.jsonl").write_text(
        "".join(lines) + '{"time": 1.0, "st'
    )  # the run was killed while it wrote
    return root
