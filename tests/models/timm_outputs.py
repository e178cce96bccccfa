"""Feature maps and head of timm's BEiT (`timm_outputs.npz`), written with timm 1.0.31 and torch 2.14 by

python -c "from tests.models.timm_outputs import store; store()"
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from tests.checkpoint import publishers

STORED = Path(__file__).with_name("timm_outputs.npz")
UNILM = publishers.unilm_classifier(np.random.default_rng(0))
"""Weights of a model for 12 x 12 pixels, in unilm's names."""
BLOCKS = (0, 1)  # timm returns the maps in the order of the blocks


def images() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)


def store() -> None:
    import timm
    import torch

    with TemporaryDirectory() as folder, torch.no_grad():
        write(Path(folder) / "ours.pth", {"model": UNILM})
        convert(Path(folder) / "ours.pth", Path(folder) / "theirs", publisher="timm")
        source = f"local-dir:{folder}/theirs"
        x = torch.from_numpy(images())
        maps = timm.create_model(source, pretrained=True, features_only=True, out_indices=BLOCKS).eval()
        model = timm.create_model(source, pretrained=True).eval()
        tokens = model.forward_features(x)
        np.savez_compressed(
            STORED,
            maps=np.stack([value.numpy() for value in maps(x)]),
            pre_logits=model.forward_head(tokens, pre_logits=True).numpy(),
            logits=model.forward_head(tokens).numpy(),
        )
