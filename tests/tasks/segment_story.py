"""What the segmentation tests share: tiny scenes, a tiny config, and a rank's work; ranks import it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from beit.config import get_config
from beit.tools.scenes import write_scenes
from beit.train import run

TINY = {
    "TASK": "segment",
    "DATA.DATASET": "image_mask",
    "DATA.IMAGE_SIZE": 32,
    "DATA.RESIZE_LIMITS": [64, 48],
    "DATA.BATCH_SIZE": 2,
    "DATA.BATCH_SIZE_EVAL": 1,
    "DATA.NUM_WORKERS": 0,
    "MODEL.NAME": "tiny_upernet",
    "MODEL.NUM_CLASSES": 5,
    "MODEL.PATCH_SIZE": 8,
    "MODEL.EMBED_DIM": 24,
    "MODEL.DEPTH": 4,
    "MODEL.NUM_HEADS": 3,
    "MODEL.OUT_INDICES": [0, 1, 2, 3],
    "MODEL.AUXILIARY_CHANNELS": 8,
    "TRAIN.MAX_STEPS": 3,
    "TRAIN.SCHEDULE": "poly",
    "TRAIN.WARMUP_STEPS": 1,
    "TRAIN.BASE_LR": 1e-3,
    "DEVICE": "cpu",
    "REPORT_FREQ": 1,
}
QUIET = {"MODEL.DECODER_DROPOUT": 0.0}  # nothing random that a rank draws for itself


def make_scenes(folder, train=8, val=3):
    return write_scenes(folder, images={"train": train, "val": val})


def tiny_config(data, output, **keys):
    """Frozen config; keyword `TRAIN__BASE_LR` is the key `TRAIN.BASE_LR`."""
    values = TINY | {"DATA.DATA_PATH": str(data), "SAVE": str(output)}
    values |= {name.replace("__", "."): value for name, value in keys.items()}
    return get_config(None, [item for pair in values.items() for item in pair])


def losses(output):
    lines = [json.loads(line) for line in (Path(output) / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def worker(config):
    run.run(config)
    sys.exit(0)


def weights(output):
    import paddle

    return {
        name: np.asarray(value) for name, value in paddle.load(str(Path(output) / "model.pdparams")).items()
    }
