"""The segmentation model as a static graph, checked before it is handed over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.checkpoint.load import load_pretrained
from beit.config import image_hw
from beit.data.image_mask import class_names_and_palette
from beit.models.upernet import build_upernet

TOLERANCE = 1e-4
"""Largest difference of a logit between the exported and the trained model, float32."""


def export_segmentation(config: CfgNode, folder: Path, *, seed: int = 0) -> dict[str, float | int]:
    """Write `segmentation.json` and the graph `segmentation.*` (`paddle.jit.load(folder / "segmentation")`).

    The graph takes normalised images `[B, 3, H, W]` of DATA.IMAGE_SIZE, B free, and gives logits `[B, K, H/4, W/4]`.
    It is read back and compared with the model on random images of two batch sizes; the JSON holds names, colours,
    mean, deviation, size, and the largest difference.

    Returns: `max_difference`, `parameters`.

    Raises:
        ValueError: MODEL.PRETRAINED is not set or does not fit, or the graph computes something else.
    """
    if not config.MODEL.PRETRAINED:
        raise ValueError("MODEL.PRETRAINED is not set; name the weights to export: -pretrained FILE")
    model = build_upernet(config)
    load_pretrained(model, config.MODEL.PRETRAINED)
    model.eval()
    height, width = image_hw(config)
    spec = paddle.static.InputSpec([None, 3, height, width], "float32", "images")
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "segmentation"
    paddle.jit.save(paddle.jit.to_static(model, input_spec=[spec], full_graph=True), str(target))
    rng = np.random.default_rng(seed)
    shapes = [(batch, 3, height, width) for batch in (1, 2)]
    images = [paddle.to_tensor(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]
    difference = _largest_difference(model, target, images)
    if not difference <= TOLERANCE:
        for file in folder.glob("segmentation.*"):
            file.unlink()
        raise ValueError(
            f"the exported graph differs from the model by {difference:g} (at most {TOLERANCE:g} is allowed); it was removed"
        )
    names, palette = class_names_and_palette(config, Path(config.MODEL.PRETRAINED).parent)
    result = {
        "max_difference": difference,
        "parameters": sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient),
    }
    content = {
        "model": config.MODEL.NAME,
        "image_size": [height, width],
        "mean": list(config.DATA.IMAGENET_MEAN),
        "std": list(config.DATA.IMAGENET_STD),
        "class_names": list(names or (f"class {k}" for k in range(config.MODEL.NUM_CLASSES))),
        "palette": [list(color) for color in palette],
        **result,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / "segmentation.json").write_text(text, encoding="utf-8")
    return result


@paddle.no_grad()
def _largest_difference(model: paddle.nn.Layer, target: Path, images: list[paddle.Tensor]) -> float:
    loaded = paddle.jit.load(str(target))
    loaded.eval()
    return max(float((loaded(batch) - model(batch)).abs().max()) for batch in images)
