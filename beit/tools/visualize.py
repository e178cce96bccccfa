"""`python -m beit visualize KIND`: figures of a model, its data or its training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from beit.figures import save_figure
from beit.flags import Parser, add_config_flags, config_from
from beit.predict.predictions import (
    CONFUSION_TITLES,
    NO_MATRIX,
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
from beit.predict.tokens import draw_tokens
from beit.tools.arguments import check_picture, picture, positive, verb_parser
from beit.tools.model_figures import MODEL_KINDS, Kind

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


def _predictions_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("--count", type=positive, default=40, help="images (default: 40)")


def _predictions(given: argparse.Namespace) -> list[Path]:
    """validation images with the predicted class, mistakes first: predictions.png"""
    config = config_from(given)
    output = Path(config.SAVE) / "predictions.png"
    check_picture(output, ())
    figure = draw_predictions(validation_predictions(config), given.count)
    return [save_figure(figure, output)]


def _confusion(given: argparse.Namespace) -> list[Path]:
    """confusion matrix and table of classes on the validation images: confusion.png, confusion.csv"""
    config = config_from(given)
    if config.TASK == "multilabel":
        raise ValueError(NO_MATRIX)
    output = Path(config.SAVE) / "confusion.png"
    check_picture(output, (), CONFUSION_TITLES)
    found = validation_predictions(config)
    return [
        save_figure(draw_confusion(found), output),
        write_confusions(found, output.with_suffix(".csv")),
    ]


def _curves_arguments(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of a run")
    parser.add_argument("--output", type=picture, help="default: curves.png in the folder")


def _curves(given: argparse.Namespace) -> list[Path]:
    """training and validation curves of a run folder: curves.png"""
    return [save_figure(draw_curves(given.folder), given.output or given.folder / "curves.png")]


def _schedule_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("--images", type=positive, help="training images (default: those of the data set)")


def _schedule(given: argparse.Namespace) -> list[Path]:
    """learning rate, weight decay and layer decay of a config: schedule.png"""
    config = config_from(given)
    output = Path(config.SAVE) / "schedule.png"
    check_picture(output, ())
    return [save_figure(draw_schedule(config, given.images), output)]


def _augmentation_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("sources", metavar="IMAGE", nargs="*", help="default: some training images")
    parser.add_argument("--count", type=positive, default=6, help="images (default: 6)")


def _augmentation(given: argparse.Namespace) -> list[Path]:
    """images and random training views of them: augmentation.png"""
    config = config_from(given)
    output = Path(config.SAVE) / "augmentation.png"
    check_picture(output, given.sources)
    figure = draw_augmentation(config, given.sources, given.count)
    return [save_figure(figure, output)]


def _masked_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument("--count", type=positive, default=8, help="images (default: 8)")


def _masked(given: argparse.Namespace) -> list[Path]:
    """pre-training: images, masked images, their tokens and the predicted tokens as pixels: masked.png"""
    config = config_from(given)
    output = Path(config.SAVE) / "masked.png"
    check_picture(output, ())
    figure = draw_masked(config, given.count)
    return [save_figure(figure, output)]


def _codes_arguments(parser: Parser) -> None:
    add_config_flags(parser)
    parser.add_argument(
        "--code", type=int, nargs="+", default=(), help="codes to show (default: the four most frequent)"
    )
    parser.add_argument("--images", type=positive, default=256, help="images to encode (default: 256)")


def _codes(given: argparse.Namespace) -> list[Path]:
    """tokenizers: code maps, patches of single codes, usage of the codebook, reconstructions"""
    config = config_from(given)
    folder = Path(config.SAVE)
    check_picture(folder / "codebook.png", ())
    drawn = draw_tokens(config, codes=tuple(given.code), images=given.images)
    return save_images(drawn, folder)


KINDS: dict[str, Kind] = {
    **MODEL_KINDS,
    "predictions": (_predictions, _predictions_arguments),
    "confusion": (_confusion, add_config_flags),
    "curves": (_curves, _curves_arguments),
    "schedule": (_schedule, _schedule_arguments),
    "augmentation": (_augmentation, _augmentation_arguments),
    "masked": (_masked, _masked_arguments),
    "codes": (_codes, _codes_arguments),
}
"""Kind of figure -> function that draws it from the parsed arguments, and one that adds them to its parser."""
