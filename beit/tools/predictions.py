"""A picture of validation images with what the model says of them.

`python -m beit.tools.predictions` takes the flags of an evaluation and writes `predictions.png` into the output folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.checkpoint.load import load_pretrained
from beit.config import batch_size_eval, config_from_arguments
from beit.data.images import open_image
from beit.data.loader import Loader
from beit.data.sampler import EvalSampler
from beit.engine import to_device
from beit.tasks.classify import Classify


def draw_predictions(config: CfgNode, count: int = 40) -> Path:
    """Write `predictions.png`: the images the model has wrong first, then those it is least sure of; its path.

    Each title has the predicted class with its probability, and the true class in red where it differs.
    """
    task = Classify(config)
    load_pretrained(task.model, config.MODEL.PRETRAINED)
    task.eval()
    dataset = task.dataset("val")
    sampler = EvalSampler(len(dataset), batch_size=batch_size_eval(config))
    probabilities = []
    with paddle.no_grad(), Loader(dataset, num_workers=config.DATA.NUM_WORKERS) as loader:
        for batch in loader(sampler):
            logits = task.model(task.normalized(to_device(batch)["image"]))
            probabilities.append(paddle.nn.functional.softmax(logits, axis=-1).numpy())
    scores = np.concatenate(probabilities)
    predicted, confidence = scores.argmax(-1), scores.max(-1)
    wrong = predicted != dataset.images.labels
    shown = np.lexsort((confidence, ~wrong))[:count]
    names = dataset.images.class_names or [str(label) for label in range(scores.shape[1])]
    title = f"{config.MODEL.NAME}: {len(scores)} images, {wrong.sum()} wrong, top-1 {100 * (1 - wrong.mean()):.2f} %"
    return _draw(config, title, [
        (
            np.asarray(open_image(dataset.images.path(index), **dataset.open_options)),
            f"{names[predicted[index]]}  {100 * confidence[index]:.0f} %"
            + (f"\nis {names[dataset.images.labels[index]]}" if wrong[index] else ""),
            bool(wrong[index]),
        )
        for index in shown
    ])


def _draw(config: CfgNode, title: str, tiles: list[tuple[np.ndarray, str, bool]]) -> Path:
    import matplotlib  # the demo extra

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(8, len(tiles))
    rows = -(-len(tiles) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(1.5 * columns, 1.8 * rows + 0.5), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (pixels, text, is_wrong) in zip(axes.flat, tiles, strict=False):
        axis.imshow(pixels)
        axis.set_title(text, fontsize=8, color="red" if is_wrong else "black")
    figure.suptitle(title)
    figure.tight_layout()
    path = Path(config.SAVE) / "predictions.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
    return path


if __name__ == "__main__":
    print(draw_predictions(config_from_arguments(sys.argv[1:], program="python -m beit.tools.predictions")))
