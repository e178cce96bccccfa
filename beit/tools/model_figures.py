"""Kinds of `beit visualize` that show what a classifier does with images: maps, similar images, another model beside it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from beit.figures import save_figure
from beit.flags import Parser
from beit.predict.attention_figure import draw_attention, draw_cam
from beit.predict.comparison import COMPARISON_TITLES, compare, draw_comparison, write_comparison
from beit.predict.image_index import ImageIndex, open_index
from beit.predict.index_figures import (
    NEAREST_TITLES,
    draw_features,
    draw_nearest,
    require_method,
    write_nearest,
)
from beit.predict.inference import require_classifier
from beit.predict.shape_bias import SHAPE_BIAS_TITLES, draw_shape_bias, shape_bias, write_shape_bias
from beit.tools.arguments import check_picture, picture, positive
from beit.tools.model_arguments import add_device, add_images, add_model, model_from, use_device

Kind = tuple[Callable[[argparse.Namespace], list[Path]], Callable[[Parser], None]]
"""A function that draws a kind of figure from the parsed arguments, and one that adds them to its parser."""


def _attention_arguments(parser: Parser) -> None:
    add_model(parser)
    add_images(parser)
    parser.add_argument("--layers", type=int, nargs="+", help="blocks from 0 (default: first, middle, last)")
    parser.add_argument(
        "--output", type=picture, default=Path("attention.png"), help="default: attention.png"
    )
    add_device(parser)


def _attention(given: argparse.Namespace) -> list[Path]:
    """attention of a classifier: rollout through all blocks, mean and heads of single blocks: attention.png"""
    files = check_picture(given.output, given.images)
    use_device(given.device)
    predictor = require_classifier(model_from(given), "attention maps")
    return [save_figure(draw_attention(predictor, files, blocks=given.layers), given.output)]


def _cam_arguments(parser: Parser) -> None:
    add_model(parser)
    add_images(parser)
    parser.add_argument(
        "--classes",
        metavar="CLASS",
        nargs="+",
        default=(),
        help="names or numbers (default: the two most probable)",
    )
    parser.add_argument("--layer", type=int, help="block from 0 (default: the last that has a Grad-CAM)")
    parser.add_argument("--output", type=picture, default=Path("cam.png"), help="default: cam.png")
    add_device(parser)


def _cam(given: argparse.Namespace) -> list[Path]:
    """attention rollout beside Grad-CAM of classes: where the image raises their logits: cam.png"""
    files = check_picture(given.output, given.images)
    use_device(given.device)
    predictor = require_classifier(model_from(given), "maps of classes")
    return [save_figure(draw_cam(predictor, files, classes=given.classes, block=given.layer), given.output)]


def _nearest_arguments(parser: Parser) -> None:
    add_model(parser)
    parser.add_argument("queries", metavar="QUERY", nargs="+", help="files, folders, patterns in quotes")
    parser.add_argument(
        "--among",
        metavar="IMAGE",
        nargs="+",
        help="files, folders, patterns (default: those of the index file)",
    )
    _add_index(parser)
    parser.add_argument("--topk", type=positive, default=5, help="images for each query (default: 5)")
    parser.add_argument("--output", type=picture, default=Path("nearest.png"), help="default: nearest.png")
    add_device(parser)


def _nearest(given: argparse.Namespace) -> list[Path]:
    """images nearest to queries by their features: nearest.png, nearest.csv"""
    files = check_picture(given.output, given.queries, NEAREST_TITLES)
    check_picture(given.output, given.among or ())
    index = _index(given, given.among)
    table = given.output.with_suffix(".csv")
    return [
        save_figure(draw_nearest(index, files, given.topk), given.output),
        write_nearest(index, files, table, given.topk),
    ]


def _features_arguments(parser: Parser) -> None:
    add_model(parser)
    add_images(parser)
    _add_index(parser)
    parser.add_argument(
        "--method", choices=("pca", "tsne"), default="pca", help="tsne needs scikit-learn (default: pca)"
    )
    parser.add_argument("--output", type=picture, default=Path("features.png"), help="default: features.png")
    add_device(parser)


def _features(given: argparse.Namespace) -> list[Path]:
    """images as thumbnails on a plane, similar ones together, framed by folder: features.png"""
    require_method(given.method)
    check_picture(given.output, given.images)
    return [save_figure(draw_features(_index(given, given.images), given.method), given.output)]


def _add_index(parser: Parser) -> None:
    parser.add_argument(
        "--index", type=Path, metavar="FILE", help="keeps the features (.npz); only new images are computed"
    )


def _index(given: argparse.Namespace, images: list[str] | None) -> ImageIndex:
    if images is None and given.index is None:
        raise ValueError("name the images to search (--among FOLDER), their index (--index FILE), or both")
    use_device(given.device)
    return open_index(model_from(given), images, given.index)


def _comparison_arguments(parser: Parser) -> None:
    parser.add_argument("first", metavar="FIRST", help="run folder, checkpoint, or name of a published model")
    parser.add_argument("second", metavar="SECOND", help="the other one")
    add_images(parser)
    parser.add_argument(
        "--labeled", action="store_true", help="the folder of each image is named after its class"
    )
    parser.add_argument(
        "--count", type=positive, default=20, help="images drawn (default: 20); the table has all"
    )
    parser.add_argument(
        "--output", type=picture, default=Path("comparison.png"), help="default: comparison.png"
    )
    add_device(parser)


def _comparison(given: argparse.Namespace) -> list[Path]:
    """two classifiers on the same images, different predictions first: comparison.png, comparison.csv"""
    check_picture(given.output, given.images, COMPARISON_TITLES)
    use_device(given.device)
    found = compare(given.first, given.second, given.images, labeled=given.labeled)
    return [
        save_figure(draw_comparison(found, given.count), given.output),
        write_comparison(found, given.output.with_suffix(".csv")),
    ]


def _shape_bias_arguments(parser: Parser) -> None:
    add_model(parser)
    add_images(parser)
    parser.add_argument(
        "--output", type=picture, default=Path("shape_bias.png"), help="default: shape_bias.png"
    )
    add_device(parser)


def _shape_bias(given: argparse.Namespace) -> list[Path]:
    """decisions for shape or texture on cue conflict images (cat1-elephant3.png): shape_bias.png, shape_bias.csv"""
    check_picture(given.output, given.images, SHAPE_BIAS_TITLES)
    use_device(given.device)
    found = shape_bias(model_from(given), given.images)
    return [
        save_figure(draw_shape_bias(found), given.output),
        write_shape_bias(found, given.output.with_suffix(".csv")),
    ]


MODEL_KINDS: dict[str, Kind] = {
    "attention": (_attention, _attention_arguments),
    "cam": (_cam, _cam_arguments),
    "nearest": (_nearest, _nearest_arguments),
    "features": (_features, _features_arguments),
    "comparison": (_comparison, _comparison_arguments),
    "shape-bias": (_shape_bias, _shape_bias_arguments),
}
"""Kinds whose first argument is a model."""
