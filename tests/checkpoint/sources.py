"""Files to convert."""

from __future__ import annotations

import json

import numpy as np

from beit.checkpoint.files import write
from tests.checkpoint import publishers

UNILM = publishers.unilm_classifier(np.random.default_rng(0))


def write_source(folder):
    """A file of PaddleViT without anything beside it."""
    write(folder / "beit_base_source.pdparams", publishers.paddlevit(UNILM))
    return folder / "beit_base_source.pdparams"


NAMES = ("ant", "bee", "cow", "dog", "käfer")


def described(path, state=UNILM, **changes):
    """A file with the sidecar of this package."""
    write(path, {"model": dict(state)})
    content = {"mean": [0.4] * 3, "std": [0.3] * 3, "crop_pct": 0.8, "interpolation": "bilinear"}
    content |= {"input_size": [3, 12, 12]} | changes
    sidecar = {"pretrained_cfg": content, "class_names": list(NAMES)}
    path.with_suffix(".pretrained_cfg.json").write_text(json.dumps(sidecar))
    return path
