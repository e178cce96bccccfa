"""What the story tests share: a tiny dataset, a tiny config, and the documented commands as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.config import get_config

ROOT = Path(__file__).parent.parent

TINY: dict[str, Any] = {
    "DATA.IMAGE_SIZE": 16,
    "DATA.BATCH_SIZE": 4,
    "DATA.CROP_PCT": 1.0,
    "DATA.NUM_WORKERS": 0,
    "MODEL.NAME": "tiny",
    "MODEL.PATCH_SIZE": 8,
    "MODEL.EMBED_DIM": 24,
    "MODEL.DEPTH": 2,
    "MODEL.NUM_HEADS": 3,
    "MODEL.NUM_CLASSES": 3,
    "MODEL.DROPPATH": 0.2,
    "TRAIN.NUM_EPOCHS": 2,
    "TRAIN.WARMUP_EPOCHS": 1.0,
    "TRAIN.BASE_LR": 1e-2,
    "DEVICE": "cpu",
    "REPORT_FREQ": 1,
}

QUIET: dict[str, Any] = {  # nothing random but the order of images
    "MODEL.DROPPATH": 0.0,
    "TRAIN.SCALE": [1.0, 1.0],
    "TRAIN.RATIO": [1.0, 1.0],
    "TRAIN.HFLIP": 0.0,
    "TRAIN.AUTO_AUGMENT": "",
    "TRAIN.COLOR_JITTER": 0.0,
    "TRAIN.RANDOM_ERASE_PROB": 0.0,
    "TRAIN.MIXUP_ALPHA": 0.0,
    "TRAIN.CUTMIX_ALPHA": 0.0,
}


def write_dataset(root: Path, *, train: int = 24, val: int = 10, classes: int = 3) -> Path:
    """Noise of one hue per class, 20x18 pixels, list-file layout with a blank in each path."""
    rng = np.random.default_rng(0)
    (root / "my images").mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("val", val)):
        lines = []
        for number in range(count):
            label = number % classes
            pixels = rng.integers(0, 100, (18, 20, 3))
            pixels[..., label % 3] += 120
            name = f"my images/{split}_{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(root / name)
            lines.append(f"{name} {label}\n")
        (root / f"{split}_list.txt").write_text("".join(lines), encoding="utf-8")
    return root


def tiny_config(data: Path, output: Path, **keys: Any) -> Any:
    """Frozen config of the tiny run; keyword `TRAIN__BASE_LR` is the key `TRAIN.BASE_LR`."""
    values = TINY | {"DATA.DATA_PATH": str(data), "SAVE": str(output)}
    values |= {name.replace("__", "."): value for name, value in keys.items()}
    return get_config(None, [item for pair in values.items() for item in pair])


def command(script: str, data: Path, output: Path, *extra: Any, **keys: Any) -> list[str]:
    """A documented command line of the tiny run."""
    values = TINY | {name.replace("__", "."): value for name, value in keys.items()}
    opts = [str(item) for pair in values.items() for item in pair]
    return [
        sys.executable,
        str(ROOT / script),
        f"-data_path={data}",
        f"-output={output}",
        *map(str, extra),
        "-opts",
        *opts,
    ]


def environment() -> dict[str, str]:
    """One thread a process; everything else as the tests have it."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_command(arguments: list[str], timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=timeout, env=environment(), cwd=ROOT, check=False
    )


def losses(output: Path) -> list[float]:
    """Training losses by step; of a step that ran twice the later one."""
    by_step = {}
    for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "train/loss" in entry:
            by_step[entry["step"]] = entry["train/loss"]
    return [by_step[step] for step in sorted(by_step)]
