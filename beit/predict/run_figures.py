"""Figures of a training run: its curves, its schedules, its augmentation, and its masked images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.data.batch_transforms import to_device
from beit.data.image_list import ImageList
from beit.data.loader import collate
from beit.data.sampler import Sample, build_train_sampler
from beit.figures import Tile, draw_tiles, pyplot, save_figure
from beit.optim.schedule import make_schedules, run_length
from beit.predict.inputs import find_images
from beit.tasks import TASKS, Task
from beit.tasks.pretrain import Pretrain

_NOT_CURVES = ("count", "images_per_second", "data_wait", "weight_decay", "loss_scale")
_POINTS = 2000  # of a schedule that are drawn
_VIEWS = 7  # random views of each image
_SMALLEST_SIDE = 200  # pixels; smaller images are enlarged


def draw_curves(folder: Path, target: Path | None = None) -> Path:
    """Write `curves.png`: every number of `metrics.jsonl` over the steps; its path.

    Training and validation numbers of the same name share a panel. If a step ran twice, after a resume, the later line
    counts.

    Args:
        folder: output folder of a run.
        target: PNG file to write; None for `curves.png` in the folder.

    Raises:
        FileNotFoundError: the folder has no `metrics.jsonl`.
        ValueError: it holds no numbers.
    """
    curves = read_curves(folder / "metrics.jsonl")
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for tag, points in curves.items():
        group, _, name = tag.partition("/")
        if group != "eval" and name not in _NOT_CURVES:
            panels.setdefault(name, {})[group] = points
    if not panels:
        raise ValueError(f"{folder / 'metrics.jsonl'} holds no training or validation numbers yet")
    plt = pyplot()
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.5 * columns, 3.2 * rows), squeeze=False, layout="tight"
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, groups) in zip(axes.flat, panels.items(), strict=False):
        for group, points in groups.items():
            steps = sorted(points)
            values = [points[step] for step in steps]
            axis.plot(steps, values, label=group, marker="o" if len(steps) < 30 else None, markersize=3)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if len(groups) > 1:
            axis.legend()
    figure.suptitle(str(folder))
    return save_figure(figure, target or folder / "curves.png")


def read_curves(path: Path) -> dict[str, dict[int, float]]:
    """The values of a `metrics.jsonl` by tag (`train/loss`) and step; an incomplete last line is left out.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the output folder of a run")
    curves: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        for tag, value in entry.items():
            if "/" in tag and isinstance(value, int | float):
                curves.setdefault(tag, {})[entry["step"]] = value
    return curves


def draw_schedule(config: CfgNode, images: int | None = None) -> Path:
    """Write `schedule.png`: learning rate and weight decay over the steps, and the rate of each layer; its path.

    Args:
        config: of the run; the figure goes into its SAVE folder.
        images: number of training images; None counts those of the config.
    """
    task = TASKS[config.TASK](config)
    batch = config.DATA.BATCH_SIZE * config.TRAIN.ACCUM_ITER
    if images is None:
        dataset = task.dataset("train")
        assert dataset is not None  # every task has training data
        images = len(dataset)
    else:
        images = max(images, batch)
    steps_per_epoch = build_train_sampler(config, images).steps_per_epoch
    schedules = make_schedules(config, steps_per_epoch, batch)
    total = run_length(config, steps_per_epoch)
    steps = np.unique(np.linspace(0, total - 1, min(total, _POINTS)).astype(int))
    values = np.array([schedules(int(step)) for step in steps])
    plt = pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(14, 3.8), layout="tight")
    for axis, column, title in ((axes[0], 0, "learning rate"), (axes[1], 1, "weight decay")):
        axis.plot(steps / steps_per_epoch, values[:, column])
        axis.set_title(f"{title}, total batch {batch}")
        axis.set_xlabel(f"epoch of {steps_per_epoch} steps")
        axis.grid(alpha=0.3)
    multipliers = _layer_multipliers(task)
    axes[2].bar(list(multipliers), list(multipliers.values()))
    axes[2].set_title(f"multiplier of the rate, layer decay {config.TRAIN.LAYER_DECAY:g}")
    axes[2].set_xlabel(f"layer: 0 embedding, 1 to {max(multipliers) - 1} blocks, {max(multipliers)} the rest")
    return save_figure(figure, Path(config.SAVE) / "schedule.png")


def _layer_multipliers(task: Task) -> dict[int, float]:
    return {group.get("layer", 0): group.get("learning_rate", 1.0) for group in task.param_groups()}


def draw_augmentation(config: CfgNode, images: Sequence[str] = (), count: int = 6) -> Path:
    """Write `augmentation.png`: one row per image, with the image and seven random training views of it; its path.

    The views are the model's input before normalization, mixup, cutmix and random erasing; for pre-training they are
    those of the model, not of the tokenizer. (The first batch of a run in VisualDL shows mixup, cutmix and erasing.)

    Args:
        config: of the run; the figure goes into its SAVE folder.
        images: files, folders or patterns; none for the first training images of the config.
        count: largest number of images.
    """
    task = TASKS[config.TASK](config)
    dataset = task.dataset("train")
    assert dataset is not None  # every task has training data
    if images:
        found = [str(path.resolve()) for source in images for path in find_images(source)][:count]
        labels = None if dataset.images.labels is None else [0] * len(found)
        dataset.images = ImageList.from_names(Path(), found, labels)
    tiles = []
    for index in range(min(count, len(dataset))):
        tiles.append(Tile(dataset.original(index), dataset.images.path(index).name[-24:]))
        for view in range(_VIEWS):
            sample = dataset[Sample(index, index + view * len(dataset))]
            tiles.append(Tile(sample["image"].transpose(1, 2, 0)))
    title = f"{config.MODEL.NAME}: training views ({config.TRAIN.AUTO_AUGMENT or 'no RandAugment'})"
    return draw_tiles(tiles, Path(config.SAVE) / "augmentation.png", columns=1 + _VIEWS, title=title)


@paddle.no_grad()
def draw_masked(config: CfgNode, count: int = 8) -> list[Path]:
    """Write what a pre-training model predicts for masked images; the paths of the images written.

    Columns: the image, the masked image, and (with DALL-E's decoder) its decoded tokens and the decoded prediction. The
    images are the first validation images, or training images if there are none.

    Args:
        config: with the weights as MODEL.PRETRAINED; the images go into its SAVE folder.
        count: largest number of images.

    Raises:
        ValueError: no weights are named, or the task is not pre-training.
    """
    if config.TASK != "pretrain" or not config.MODEL.PRETRAINED:
        raise ValueError("masked images need TASK: pretrain and weights: -pretrained FILE")
    task = Pretrain(config)
    task.load(config.MODEL.PRETRAINED)
    task.eval()
    dataset: Any = task.dataset("val") or task.dataset("train")
    batch = collate([dataset[Sample(index, index)] for index in range(min(count, len(dataset)))])
    image = task.draw_predictions(to_device(batch))
    return save_images({"original, masked, tokens, prediction": image}, Path(config.SAVE))


def save_images(images: dict[str, np.ndarray], folder: Path) -> list[Path]:
    """Write images as PNG files, small ones enlarged by a whole factor; the paths.

    Args:
        images: uint8 `[H, W, 3]` by name; file names are made of the letters and digits of the names.
        folder: to write into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, pixels in images.items():
        words = "".join(letter if letter.isalnum() else " " for letter in name).split()
        path = folder / f"{'_'.join(words)}.png"
        factor = -(-_SMALLEST_SIDE // min(pixels.shape[:2]))
        Image.fromarray(pixels.repeat(factor, axis=0).repeat(factor, axis=1)).save(path)
        paths.append(path)
    return paths
