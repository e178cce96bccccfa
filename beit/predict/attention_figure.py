"""Figures of maps over images: attention rollout, beside it single blocks and heads, or Grad-CAM of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from beit.data.image_input import ImageInput
from beit.figures import Tile, draw_tiles, end_of
from beit.imagenet_classes import first_synonym
from beit.predict.attention_maps import overlay
from beit.predict.classifier import Classifier
from beit.predict.inference import Model, load_predictor, require_classifier
from beit.predict.inputs import list_inputs

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEADS_SHOWN = 6
_CLASSES_SHOWN = 2
_SMALLEST_SIDE = 128  # pixels; smaller images are enlarged, else the colors of a patch blur into a spot
_WHITE = np.full((8, 8, 3), 255, np.uint8)


def draw_attention(
    model: Model, images: ImageInput | Sequence[ImageInput], *, blocks: Sequence[int] | None = None
) -> Figure:
    """The attention maps of images as a matplotlib figure.

    Examples:
        >>> beit.draw_attention("output/run", "photo.jpg").savefig("attention.png")

    Args:
        model: a classifier or an encoder, as `load_predictor` takes it.
        images: file, folder, pattern, Pillow image, array uint8 `[H, W, 3]` (RGB), or a list of these.
        blocks: numbers of the blocks shown, from 0; None for the first, the middle and the last.

    Raises:
        ValueError: the model has no such block; it is another kind of model.
        ImageError: an image cannot be read.
    """
    predictor = require_classifier(load_predictor(model), "attention maps")
    depth = predictor.model.depth
    blocks = blocks or sorted({0, depth // 2, depth - 1})
    wrong = [block for block in blocks if not 0 <= block < depth]
    if wrong:
        raise ValueError(f"block {wrong[0]} does not exist; the model has blocks 0 to {depth - 1}")
    heads = min(_HEADS_SHOWN, predictor.model.blocks[0].attn.num_heads)
    tiles = [tile for image in list_inputs(images)[0] for tile in _rows_of(predictor, image, blocks, heads)]
    return draw_tiles(tiles, columns=1 + heads, side=1.8)


def draw_cam(
    model: Model,
    images: ImageInput | Sequence[ImageInput],
    *,
    classes: Sequence[int | str] = (),
    block: int | None = None,
) -> Figure:
    """Grad-CAM of classes beside the attention rollout of images, as a matplotlib figure.

    Examples:
        >>> beit.draw_cam("output/run", "photo.jpg").savefig("cam.png")

    Args:
        model: a classifier, as `load_predictor` takes it.
        images: as in `draw_attention`.
        classes: numbers or names of classes; none for the two most probable ones of each image.
        block: as in `Classifier.grad_cam`.

    Raises:
        ValueError: the model has no such class or block, or no classes at all.
        ImageError: an image cannot be read.
    """
    predictor = require_classifier(load_predictor(model), "maps of classes")
    labels = [predictor.label(name) for name in classes]
    rows = [_cam_row(predictor, image, labels, block) for image in list_inputs(images)[0]]
    return draw_tiles([tile for row in rows for tile in row], columns=len(rows[0]), side=1.8)


def _rows_of(predictor: Classifier, source: ImageInput, blocks: Sequence[int], heads: int) -> list[Tile]:
    """Rows of `1 + heads` tiles: the image and its rollout, then for each block the mean and the first heads."""
    image = predictor.open(source)
    view = _enlarged_view(predictor, image)
    attentions = predictor.attentions(image)
    tiles = _image_and_rollout(predictor, source, image, view, attentions)
    tiles += [Tile(_WHITE)] * (1 + heads - len(tiles))
    for block in blocks:
        maps = predictor.attention_map(attentions[block])  # [H, h, w]
        mean = np.asarray(overlay(view, maps.mean(axis=0)))
        tiles.append(Tile(mean, f"block {block},\nmean of {len(maps)}"))
        tiles += [Tile(np.asarray(overlay(view, maps[head])), f"head {head}") for head in range(heads)]
    return tiles


def _cam_row(
    predictor: Classifier, source: ImageInput, labels: Sequence[int], block: int | None
) -> list[Tile]:
    """The image, its rollout, and Grad-CAM of the classes, or of the most probable ones if none are named."""
    image = predictor.open(source)
    view = _enlarged_view(predictor, image)
    best = predictor([image], topk=_CLASSES_SHOWN)[0]
    tiles = _image_and_rollout(predictor, source, image, view, predictor.attentions(image))
    for label in labels or [entry["label"] for entry in best["topk"]]:
        title = f"Grad-CAM, {first_synonym(predictor.name(label))}\n{100 * best['pred_scores'][label]:.0f} %"
        tiles.append(Tile(np.asarray(overlay(view, predictor.grad_cam(image, label, block))), title))
    return tiles


def _image_and_rollout(
    predictor: Classifier,
    source: ImageInput,
    image: Image.Image,
    view: Image.Image,
    attentions: Sequence[np.ndarray],
) -> list[Tile]:
    name = f"{end_of(Path(source).name, 22)}\n" if isinstance(source, str | Path) else ""
    title = "features"
    if predictor.num_classes:
        best = predictor([image], topk=1)[0]
        title = f"{first_synonym(best['pred_class'])}: {100 * best['pred_score']:.0f} %"
    rolled = overlay(view, predictor.attention_rollout(attentions))
    return [Tile(np.asarray(view), name + title), Tile(np.asarray(rolled), "rollout,\nall blocks")]


def _enlarged_view(predictor: Classifier, image: Image.Image) -> Image.Image:
    view = predictor.view(image)
    scale = -(-_SMALLEST_SIDE // min(view.size))
    return view.resize((view.width * scale, view.height * scale), Image.Resampling.NEAREST)
