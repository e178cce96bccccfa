"""`python -m beit visualize KIND`: figures of a model, its data or its training."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from beit.figures import save_figure
from beit.flags import Parser, add_config_flags, config_from
from beit.predict.attention_figure import draw_attention, draw_cam
from beit.predict.comparison import compare, draw_comparison, write_comparison
from beit.predict.image_index import ImageIndex, open_index
from beit.predict.index_figures import draw_features, draw_nearest, write_nearest
from beit.predict.inference import require_classifier
from beit.predict.inputs import find_images
from beit.predict.predictions import (
    draw_confusion,
    draw_predictions,
    validation_predictions,
    write_confusions,
)
from beit.predict.run_figures import (
    draw_augmentation,
    draw_curves,
    draw_masked,
    draw_schedule,
    save_images,
)
from beit.predict.shape_bias import draw_shape_bias, shape_bias, write_shape_bias
from beit.predict.tokens import draw_tokens
from beit.tools.arguments import verb_parser
from beit.tools.model_arguments import add_device, add_images, add_model, model_from, use_device

EXAMPLES = (
    "python -m beit visualize attention output/run photo.jpg --output attention.png",
    "python -m beit visualize cam output/run photo.jpg --output cam.png",
    "python -m beit visualize nearest output/run photo.jpg --among pictures --index pictures.npz --output nearest.png",
    "python -m beit visualize features output/run flowers --method tsne --output features.png",
    "python -m beit visualize comparison output/run output/run/model.pdparams flowers --output comparison.png",
    "python -m beit visualize predictions -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams "
    "-data_path=digits -output=output/pictures",
    "python -m beit visualize confusion -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams "
    "-data_path=digits -output=output/pictures",
    "python -m beit visualize curves output/run",
    "python -m beit visualize schedule -cfg=beit_tiny_patch16_224 --images 50000 -output=output/pictures",
    "python -m beit visualize augmentation photo.jpg -cfg=demo_digits -data_path=digits -output=output/pictures",
)


def build_parser() -> Parser:
    """The parser of the verb's arguments, with one of its own for each kind of figure."""
    parser = verb_parser("visualize", f"{__doc__}\nvisualize KIND --help lists its flags.", EXAMPLES)
    subparsers = parser.add_subparsers(metavar="KIND", required=True)
    for kind, (action, add_arguments) in KINDS.items():
        examples = [line for line in EXAMPLES if f" visualize {kind} " in line]
        own = subparsers.add_parser(kind, help=action.__doc__, description=action.__doc__, examples=examples)
        own.set_defaults(action=action)
        add_arguments(own)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one kind of figure and print the paths of its files."""
    given = build_parser().parse_args(argv)
    for path in given.action(given):
        print(path)


def _attention_arguments(parser: Parser) -> None:
    add_model(parser)
    add_images(parser)
    parser.add_argument("--layers", type=int, nargs="+", help="blocks from 0 (default: first, middle, last)")
    parser.add_argument("--output", type=Path, default=Path("attention.png"), help="default: attention.png")
    add_device(parser)


def _attention(given: argparse.Namespace) -> list[Path]:
    """attention of a classifier: rollout through all blocks, mean and heads of single blocks: attention.png"""
    use_device(given.device)
    predictor = require_classifier(model_from(given), "attention maps")
    files = [file for source in given.images for file in find_images(source)]
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
    parser.add_argument("--output", type=Path, default=Path("cam.png"), help="default: cam.png")
    add_device(parser)


def _cam(given: argparse.Namespace) -> list[Path]:
    """attention rollout beside Grad-CAM of classes: where the image raises their logits: cam.png"""
    use_device(given.device)
    predictor = require_classifier(model_from(given), "maps of classes")
    files = [file for source in given.images for file in find_images(source)]
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
    parser.add_argument("--topk", type=int, default=5, help="images for each query (default: 5)")
    parser.add_argument("--output", type=Path, default=Path("nearest.png"), help="default: nearest.png")
    add_device(parser)


def _nearest(given: argparse.Namespace) -> list[Path]:
    """images nearest to queries by their features: nearest.png, nearest.csv"""
    index = _index(given, given.among)
    files = [file for source in given.queries for file in find_images(source)]
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
    parser.add_argument("--output", type=Path, default=Path("features.png"), help="default: features.png")
    add_device(parser)


def _features(given: argparse.Namespace) -> list[Path]:
    """images as thumbnails on a plane, similar ones together, framed by folder: features.png"""
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
    parser.add_argument("--count", type=int, default=20, help="images drawn (default: 20); the table has all")
    parser.add_argument("--output", type=Path, default=Path("comparison.png"), help="default: comparison.png")
    add_device(parser)


def _comparison(given: argparse.Namespace) -> list[Path]:
    """two classifiers on the same images, different predictions first: comparison.png, comparison.csv"""
    use_device(given.device)
    found = compare(given.first, given.second, given.images, labeled=given.labeled)
    return [
        save_figure(draw_comparison(found, given.count), given.output),
        write_comparison(found, given.output.with_suffix(".csv")),
    ]


def _shape_bias_arguments(parser: Parser) -> None:
    add_model(parser)
    add_images(parser)
    parser.add_argument("--output", type=Path, default=Path("shape_bias.png"), help="default: shape_bias.png")
    add_device(parser)


def _shape_bias(given: argparse.Namespace) -> list[Path]:
    """decisions for shape or texture on cue conflict images (cat1-elephant3.png): shape_bias.png, shape_bias.csv"""
    use_device(given.device)
    found = shape_bias(model_from(given), given.images)
    return [
        save_figure(draw_shape_bias(found), given.output),
        write_shape_bias(found, given.output.with_suffix(".csv")),
    ]


def _predictions_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("--count", type=int, default=40, help="images (default: 40)")


def _predictions(given: argparse.Namespace) -> list[Path]:
    """validation images with the predicted class, mistakes first: predictions.png"""
    config = config_from(given)
    figure = draw_predictions(validation_predictions(config), given.count)
    return [save_figure(figure, Path(config.SAVE) / "predictions.png")]


def _confusion(given: argparse.Namespace) -> list[Path]:
    """confusion matrix and table of classes on the validation images: confusion.png, classes.csv"""
    config = config_from(given)
    found, folder = validation_predictions(config), Path(config.SAVE)
    return [
        save_figure(draw_confusion(found), folder / "confusion.png"),
        write_confusions(found, folder / "classes.csv"),
    ]


def _curves_arguments(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of a run")
    parser.add_argument("--output", type=Path, help="default: curves.png in the folder")


def _curves(given: argparse.Namespace) -> list[Path]:
    """training and validation curves of a run folder: curves.png"""
    return [save_figure(draw_curves(given.folder), given.output or given.folder / "curves.png")]


def _schedule_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("--images", type=int, help="training images (default: those of the data set)")


def _schedule(given: argparse.Namespace) -> list[Path]:
    """learning rate, weight decay and layer decay of a config: schedule.png"""
    config = config_from(given)
    return [save_figure(draw_schedule(config, given.images), Path(config.SAVE) / "schedule.png")]


def _augmentation_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("sources", metavar="IMAGE", nargs="*", help="default: some training images")
    parser.add_argument("--count", type=int, default=6, help="images (default: 6)")


def _augmentation(given: argparse.Namespace) -> list[Path]:
    """images and random training views of them: augmentation.png"""
    config = config_from(given)
    figure = draw_augmentation(config, given.sources, given.count)
    return [save_figure(figure, Path(config.SAVE) / "augmentation.png")]


def _masked_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("--count", type=int, default=8, help="images (default: 8)")


def _masked(given: argparse.Namespace) -> list[Path]:
    """pre-training: images, masked images, their tokens and the predicted tokens as pixels: masked.png"""
    config = config_from(given)
    figure = draw_masked(config, given.count)
    return [save_figure(figure, Path(config.SAVE) / "masked.png")]


def _codes_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument(
        "--code", type=int, nargs="+", default=(), help="codes to show (default: the four most frequent)"
    )
    parser.add_argument("--images", type=int, default=256, help="images to encode (default: 256)")


def _codes(given: argparse.Namespace) -> list[Path]:
    """tokenizers: code maps, patches of single codes, usage of the codebook, reconstructions"""
    config = config_from(given)
    drawn = draw_tokens(config, codes=tuple(given.code), images=given.images)
    return save_images(drawn, Path(config.SAVE))


KINDS: dict[str, tuple[Callable[[argparse.Namespace], list[Path]], Callable[[Parser], None]]] = {
    "attention": (_attention, _attention_arguments),
    "cam": (_cam, _cam_arguments),
    "nearest": (_nearest, _nearest_arguments),
    "features": (_features, _features_arguments),
    "comparison": (_comparison, _comparison_arguments),
    "shape-bias": (_shape_bias, _shape_bias_arguments),
    "predictions": (_predictions, _predictions_arguments),
    "confusion": (_confusion, add_config_flags),
    "curves": (_curves, _curves_arguments),
    "schedule": (_schedule, _schedule_arguments),
    "augmentation": (_augmentation, _augmentation_arguments),
    "masked": (_masked, _masked_arguments),
    "codes": (_codes, _codes_arguments),
}
"""Kind of figure -> function that draws it from the parsed arguments, and one that adds them to its parser."""
