"""Figures of a training run: its curves, its schedules, its augmentation, and its masked images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from PIL import Image

from beit.config import with_options
from beit.data.batch_transforms import to_device
from beit.data.classes_of_data import with_classes_of_data
from beit.data.image_list import ImageList
from beit.data.loader import collate
from beit.data.sampler import Sample, build_train_sampler, evenly_spaced
from beit.data.segmentation import SegmentationDataset
from beit.figures import Tile, draw_tiles, end_of, make_figure, save_image
from beit.models.tokenizer import trained_decoder
from beit.optim.schedule import make_schedules, run_length
from beit.predict.inputs import find_images
from beit.predict.resolve import ConfigSource, config_of
from beit.predict.tokens import mean_patches
from beit.tasks import TASKS, Task
from beit.tasks.pretrain import PREVIEW_IMAGES, Pretrain
from beit.tasks.token_figures import TokenDecoder
from beit.text_files import read_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NOT_CURVES = ("count", "images_per_second", "data_wait", "weight_decay", "loss_scale")
_PERCENT = ("top1", "top5", "accuracy", "ece", "mAP", "macro_f1", "micro_f1", "mIoU", "mAcc", "aAcc")
_POINTS = 2000  # of a schedule that are drawn
_VIEWS = 7  # random views of each image
_NO_TOKENS = ["TOKENIZER.ALLOW_RANDOM", True]
"""For figures that show no tokens, so that they need no trained tokenizer."""
_MAX_METRICS_BYTES = 1 << 30  # of a metrics.jsonl
_SMALLEST_SIDE = 200  # pixels; smaller images are enlarged


def draw_curves(folder: str | Path) -> Figure:
    """Every number of a run's `metrics.jsonl` over the steps, as a matplotlib figure.

    Training and validation numbers of the same name share a panel. If a step ran twice, after a resume, the later line
    counts. The top-5 accuracy is left out where it always is 100 %, as with five classes or fewer.

    Examples:
        >>> beit.draw_curves("output/run").savefig("curves.png")

    Args:
        folder: output folder of a run.

    Raises:
        FileNotFoundError: the folder has no `metrics.jsonl`.
        ValueError: it holds no numbers.
    """
    file = Path(folder) / "metrics.jsonl"
    curves = read_curves(file)
    panels: dict[str, dict[str, dict[int, float]]] = {}
    for tag, points in curves.items():
        group, _, name = tag.partition("/")
        if group != "eval" and name not in _NOT_CURVES:
            panels.setdefault(name, {})[group] = points
    if all(value == 100 for points in panels.get("top5", {}).values() for value in points.values()):
        panels.pop("top5", None)
    if not panels:
        raise ValueError(f"{file} holds no training or validation numbers yet")
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = make_figure(rows, columns, 4.5 * columns, 3.2 * rows)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, groups) in zip(axes.flat, panels.items(), strict=False):
        for group, points in groups.items():
            steps = sorted(points)
            values = [points[step] for step in steps]
            axis.plot(steps, values, label=group, marker="o" if len(steps) < 30 else None, markersize=3)
        axis.set_title(name)
        axis.set_xlabel("step")
        axis.set_ylabel("%" if name in _PERCENT else "")
        axis.grid(alpha=0.3)
        if len(groups) > 1:
            axis.legend()
    figure.suptitle(str(folder))
    return figure


def read_curves(path: Path) -> dict[str, dict[int, float]]:
    """The values of a `metrics.jsonl` by tag (`train/loss`) and step; an incomplete last line is left out.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name the output folder of a run")
    curves: dict[str, dict[int, float]] = {}
    for line in read_bytes(path, _MAX_METRICS_BYTES).split(b"\n"):
        try:
            entry = json.loads(line)
            step = int(entry["step"])
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        for tag, value in entry.items():
            if "/" in tag and isinstance(value, int | float):
                curves.setdefault(tag, {})[step] = value
    return curves


def draw_schedule(config: ConfigSource, images: int | None = None) -> Figure:
    """Learning rate and weight decay over the steps, and the rate of each layer, as a matplotlib figure.

    Examples:
        >>> beit.draw_schedule("beit_tiny_patch16_224", images=50000).savefig("schedule.png")

    Args:
        config: output folder of a run, or a config, its name or file.
        images: number of training images; None counts those of the config.
    """
    config = config_of(config)
    config = with_options(with_classes_of_data(config) if images is None else config, _NO_TOKENS)
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
    figure, axes = make_figure(1, 3, 14, 3.8)
    lr, decay, layers = axes[0]
    for axis, column, title in ((lr, 0, "learning rate"), (decay, 1, "weight decay")):
        axis.plot(steps / steps_per_epoch, values[:, column])
        axis.set_title(f"{title}, total batch {batch}")
        axis.set_xlabel(f"epoch of {steps_per_epoch} steps")
        axis.grid(alpha=0.3)
    multipliers = _layer_multipliers(task)
    layers.bar(list(multipliers), list(multipliers.values()))
    layers.set_title(f"multiplier of the rate, layer decay {config.TRAIN.LAYER_DECAY:g}")
    layers.set_xlabel(f"layer: 0 embedding, 1 to {max(multipliers) - 1} blocks, {max(multipliers)} the rest")
    return figure


def _layer_multipliers(task: Task) -> dict[int, float]:
    return {group.get("layer", 0): group.get("learning_rate", 1.0) for group in task.param_groups()}


def draw_augmentation(config: ConfigSource, images: Sequence[str | Path] = (), count: int = 6) -> Figure:
    """One row per image, with the image and seven random training views of it, as a matplotlib figure.

    The views are the model's input before normalization, mixup, cutmix and random erasing; for pre-training they are
    those of the model, not of the tokenizer. (The first batch of a run in VisualDL shows mixup, cutmix and erasing.)

    Examples:
        >>> beit.draw_augmentation("output/run", ["photo.jpg"]).savefig("augmentation.png")

    Args:
        config: output folder of a run, or a config, its name or file.
        images: files, folders or patterns; none for training images of the config, spread over its data.
        count: largest number of images.

    Raises:
        FileNotFoundError, ValueError: see `find_images`; or images are given for a segmentation model, whose training
            views need label maps.
        ImageError: an image cannot be read.
    """
    config = config_of(config)
    config = with_options(with_classes_of_data(config), _NO_TOKENS)
    task = TASKS[config.TASK](config)
    dataset = task.dataset("train")
    assert dataset is not None  # every task has training data
    # An unreadable image is an error here, and nothing is recorded in the folder of the run.
    dataset.bad_images = None
    if images and isinstance(dataset, SegmentationDataset):
        raise ValueError(
            f"the training views of TASK: {config.TASK} need the label map of each image: leave out the images, and the "
            "training images are drawn"
        )
    if images:
        found = [str(path.resolve()) for source in images for path in find_images(source)][:count]
        labels = None if dataset.images.labels is None else [0] * len(found)
        dataset.images = ImageList.from_names(Path(), found, labels)
    tiles = []
    for index in evenly_spaced(len(dataset), count):
        tiles.append(Tile(dataset.original(index), end_of(dataset.images.path(index).name, 24)))
        for view in range(_VIEWS):
            sample = dataset[Sample(index, index + view * len(dataset))]
            tiles.append(Tile(sample["image"].transpose(1, 2, 0)))
    title = f"{config.MODEL.NAME}: training views ({config.TRAIN.AUTO_AUGMENT or 'no RandAugment'})"
    return draw_tiles(tiles, columns=1 + _VIEWS, title=title)


@paddle.no_grad()
def draw_masked(config: ConfigSource, count: int = 8) -> Figure:
    """What a pre-training model predicts for masked images, as a matplotlib figure with a row for each image.

    Columns: the image, the masked image, its tokens decoded, and the predicted tokens decoded (visible patches keep their
    own token). DALL-E's decoder decodes where the config names it; else each token is drawn as the mean of its patches
    (`mean_patches`). The images are validation images, or training images if there are none, spread over the data set.

    Examples:
        >>> beit.draw_masked("output/pretraining").savefig("masked.png")

    Args:
        config: output folder of a run; or a config, its name or file, with the weights as MODEL.PRETRAINED.
        count: largest number of images.

    Raises:
        ValueError: no weights are named, or the task is not pre-training.
    """
    config = config_of(config)
    if config.TASK != "pretrain" or not config.MODEL.PRETRAINED:
        raise ValueError("masked images need TASK: pretrain and weights: -pretrained FILE")
    task = Pretrain(config)
    task.load(config.MODEL.PRETRAINED)
    task.eval()
    trained = trained_decoder(task.tokenizer)
    decoder: TokenDecoder = trained or mean_patches(config, task.tokenizer)
    dataset: Any = task.dataset("val") or task.dataset("train")
    indices = evenly_spaced(len(dataset), count)
    drawn = []
    for start in range(0, len(indices), PREVIEW_IMAGES):
        batch = collate([dataset[Sample(index, index)] for index in indices[start : start + PREVIEW_IMAGES]])
        drawn.append(task.draw_predictions(to_device(batch), decoder))
    form = "decoded" if trained else "as mean patches"
    titles = ("image", "masked", f"tokens\n{form}", f"prediction\n{form}")
    pixels = np.concatenate(drawn)  # [B * H, columns * W, 3]
    pixels = pixels.reshape(len(indices), -1, len(titles), pixels.shape[1] // len(titles), 3).swapaxes(1, 2)
    tiles = [
        Tile(image, title)
        for row, images in enumerate(pixels)
        for image, title in zip(images, titles if row == 0 else [""] * len(titles), strict=True)
    ]
    return draw_tiles(tiles, columns=len(titles))


def save_images(images: dict[str, Image.Image], folder: Path) -> list[Path]:
    """Write images as PNG files, each whole or not at all, small ones enlarged by a whole factor; the paths.

    Args:
        images: by name; file names are made of the letters and digits of the names.
        folder: to write into.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, image in images.items():
        words = "".join(letter if letter.isalnum() else " " for letter in name).split()
        path = folder / f"{'_'.join(words)}.png"
        factor = -(-_SMALLEST_SIDE // min(image.size))
        enlarged = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
        paths.append(save_image(enlarged, path))
    return paths
