"""Folders of transformers whose image processors take other steps, and the probabilities that transformers computes.

`processor_probabilities.json` holds those of transformers 5.24 (Pillow backend, torch 2.14), written by
python -m tests.metadata.processor_cases > tests/metadata/processor_probabilities.json
which needs torch and transformers and no Paddle.
"""

from __future__ import annotations

import json
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.checkpoint import publishers

SIDE = 12  # pixels of the model's input
MODEL = {
    "model_type": "beit",
    "architectures": ["BeitForImageClassification"],
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": SIDE,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
    "layer_scale_init_value": 0.1,
    "use_relative_position_bias": True,
    "use_mean_pooling": True,
    "id2label": {str(i): f"name {i}" for i in range(5)},
    "label2id": {f"name {i}": i for i in range(5)},
}
_CROP = {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}}
_NO_CROP = {"do_center_crop": False}
GEOMETRY: dict[str, dict[str, Any]] = {
    "size": {"size": {"height": SIDE, "width": SIDE}, **_NO_CROP},
    "size as number": {"size": SIDE, **_NO_CROP},
    "size and crop": {"size": {"height": 19, "width": 15}, **_CROP},
    "small size and crop": {"size": {"height": 9, "width": 15}, **_CROP},
    "shorter side and crop": {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 17}, **_CROP},
    "shorter side as number": {"image_processor_type": "CLIPImageProcessor", "size": 15, **_CROP, "crop_size": SIDE},
    "crop alone": {"do_resize": False, **_CROP},
    "neither": {"do_resize": False, **_NO_CROP},
}  # fmt: skip
_STATISTICS = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
VALUES: dict[str, dict[str, Any]] = {
    "all": {},
    "no normalize": {"do_normalize": False},
    "no rescale": {"do_rescale": False, "image_mean": [110.0] * 3, "image_std": [60.0] * 3},
    "neither value": {"do_rescale": False, "do_normalize": False},
    "factor": {"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 0.9},
}
BASE = {"image_processor_type": "BeitImageProcessor", "do_resize": True, "resample": 3, "do_rescale": True}
BASE |= {"rescale_factor": 1 / 255, "do_normalize": True, **_STATISTICS}
CASES = {
    f"{place}, {value}": BASE | GEOMETRY[place] | VALUES[value] for place, value in product(GEOMETRY, VALUES)
}
CASES |= {
    f"resample {number}": BASE | GEOMETRY["shorter side and crop"] | {"resample": number}
    for number in range(6)
}
"""What was stated -> content of preprocessor_config.json: every combination of places and values, and every filter."""


def images(case: str) -> list[Image.Image]:
    """Images that a step can take: of the model's size, smaller than the crop, or larger (upright ones differ by Pillow)."""
    place = case.partition(",")[0]
    sizes = {"neither": [(SIDE, SIDE)], "crop alone": [(37, 25), (9, 20)]}.get(place, [(37, 25), (31, 20)])
    rng = np.random.default_rng(7)
    return [Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)) for size in sizes]


def state() -> dict[str, np.ndarray]:
    """The weights, in transformers' names and layout."""
    return publishers.huggingface(publishers.unilm_classifier(np.random.default_rng(3)))


def write_folder(folder: Path, case: str, **changes: Any) -> Path:
    """A folder as transformers writes it, `changes` replace keys of its preprocessor_config.json."""
    from safetensors.numpy import save_file

    folder.mkdir()
    arrays = {name: np.ascontiguousarray(array) for name, array in state().items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "preprocessor_config.json").write_text(json.dumps(CASES[case] | changes))
    return folder


def transformers_probabilities(folder: Path, case: str) -> list[list[float]]:
    """Probabilities of the classes `[n, 5]` of the images by transformers itself, from a folder of `write_folder`."""
    import torch
    from transformers import BeitForImageClassification, BeitImageProcessorPil, CLIPImageProcessorPil

    model = BeitForImageClassification.from_pretrained(folder).eval()
    is_clip = CASES[case]["image_processor_type"] == "CLIPImageProcessor"
    processor = (CLIPImageProcessorPil if is_clip else BeitImageProcessorPil).from_pretrained(folder)
    with torch.no_grad():
        pixels = [processor(image, return_tensors="pt")["pixel_values"] for image in images(case)]
        return [model(values.float()).logits.softmax(-1)[0].tolist() for values in pixels]


if __name__ == "__main__":
    lines = []
    for number, case in enumerate(CASES):
        with tempfile.TemporaryDirectory() as work:
            rows = transformers_probabilities(write_folder(Path(work) / str(number), case), case)
        lines.append(f"{json.dumps(case)}: {[[round(p, 8) for p in row] for row in rows]}")
    sys.stdout.write("{\n" + ",\n".join(lines) + "\n}\n")
