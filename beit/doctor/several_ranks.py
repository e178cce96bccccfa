"""Whether several ranks add numbers correctly, and train as one rank does with the same images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.config import get_config, with_options
from beit.doctor.findings import Finding
from beit.parallel import ranks
from beit.parallel.launch import launch
from beit.train.run import run

_STEPS, _IMAGES = 3, 8
_TOLERANCE = {"cpu": 1e-5, "gpu": 2e-3}
"""Largest relative difference of a loss. A GPU adds in another order, and its matrix products may use TF32."""
_GRACE = 5.0  # seconds between SIGTERM and SIGKILL of the other ranks when one fails


def several_ranks(folder: Path, device: str, world_size: int) -> Iterator[Finding]:
    """The sum over ranks, and the losses of a few steps beside those of one rank with the same total batch.

    Args:
        folder: of `training.write_data`.
        device: "gpu" or "cpu".
        world_size: ranks to start, 2 or more.
    """
    config = _config(folder, device, world_size)
    status = launch(_rank, (config, str(folder / "sum.json")), ranks=world_size, device=device, grace=_GRACE)
    name = f"{world_size} ranks, {'NCCL' if device == 'gpu' else 'gloo'}"
    if status:
        advice = "see the messages of the ranks in the log; NCCL_DEBUG=INFO shows what NCCL does"
        yield Finding("ranks", name, f"a rank ended with status {status}", "problem", advice)
        return
    total = json.loads((folder / "sum.json").read_text(encoding="utf-8"))
    expected = world_size * (world_size + 1) / 2
    yield Finding(
        "ranks", f"{name}, sum", f"{total:g}, expected {expected:g}", "ok" if total == expected else "problem"
    )
    run(
        with_options(
            config, ["SAVE", str(folder / "one"), "DATA.BATCH_SIZE", world_size * config.DATA.BATCH_SIZE]
        )
    )
    several, one = _losses(folder / "several"), _losses(folder / "one")
    difference = max(abs(a - b) / abs(b) for a, b in zip(several, one, strict=True))
    is_equal = difference <= _TOLERANCE[device]
    value = f"{' '.join(f'{loss:.5f}' for loss in several)}; one rank differs by {difference:.1e}"
    advice = (
        ""
        if is_equal
        else f"expected {_TOLERANCE[device]:g} at most: gradients are not averaged over the ranks"
    )
    yield Finding("ranks", f"{name}, losses", value, "ok" if is_equal else "problem", advice)


def _rank(config: CfgNode, file: str) -> None:
    """What a rank does, in a process of its own."""
    ranks.start(config.DEVICE)
    total = paddle.full([1], ranks.rank() + 1.0)
    paddle.distributed.all_reduce(total)
    if ranks.rank() == 0:
        Path(file).write_text(json.dumps(float(total.numpy()[0])), encoding="utf-8")
    run(config)


def _config(folder: Path, device: str, world_size: int) -> CfgNode:
    """A tiny classifier that trains a few steps without random operations."""
    options = {
        "DATA.DATASET": "folder", "DATA.DATA_PATH": str(folder / "classes"), "DATA.BATCH_SIZE": _IMAGES // world_size or 1,
        "DATA.IMAGE_SIZE": 32, "DATA.NUM_WORKERS": 0, "MODEL.NUM_CLASSES": 2, "MODEL.PATCH_SIZE": 16, "MODEL.EMBED_DIM": 48,
        "MODEL.DEPTH": 2, "MODEL.DROPPATH": 0.0, "MODEL.INIT_SCALE": 1.0, "TRAIN.MAX_STEPS": _STEPS, "TRAIN.WARMUP_EPOCHS": 0,
        "TRAIN.SCALE": [1.0, 1.0], "TRAIN.RATIO": [1.0, 1.0], "TRAIN.HFLIP": 0.0, "TRAIN.AUTO_AUGMENT": "",
        "TRAIN.COLOR_JITTER": 0.0, "TRAIN.RANDOM_ERASE_PROB": 0.0, "TRAIN.MIXUP_ALPHA": 0.0, "TRAIN.CUTMIX_ALPHA": 0.0,
        "TRAIN.LINEAR_SCALED_LR": None, "REPORT_FREQ": 1, "SAVE": str(folder / "several"), "DEVICE": device,
    }  # fmt: skip
    return get_config("beit_tiny_patch16_224", [item for pair in options.items() for item in pair])


def _losses(folder: Path) -> np.ndarray:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return np.array([entry["train/loss"] for entry in map(json.loads, lines) if "train/loss" in entry])
