"""`python -m beit visualize KIND`: figures of a model, its data or its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from beit.predict.attention_figure import draw_attention
from beit.predict.inference import require_classifier
from beit.predict.inputs import find_images
from beit.predict.predictions import draw_confusion, draw_predictions
from beit.predict.run_figures import (
    draw_augmentation,
    draw_curves,
    draw_masked,
    draw_schedule,
    save_images,
)
from beit.predict.tokens import draw_tokens
from beit.tools.arguments import CONFIG_FLAGS, verb_parser, with_config
from beit.tools.model_arguments import add_device, add_images, add_model, model_from, use_device

EXAMPLES = (
    "python -m beit visualize attention output/run photo.jpg --output attention.png",
    "python -m beit visualize predictions -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams "
    "-data_path=digits -output=output/pictures",
    "python -m beit visualize confusion -cfg=output/run/config.yaml -pretrained=output/run/model.pdparams "
    "-data_path=digits -output=output/pictures",
    "python -m beit visualize curves output/run",
    "python -m beit visualize schedule -cfg=beit_tiny_patch16_224 --images 50000 -output=output/pictures",
    "python -m beit visualize augmentation photo.jpg -cfg=demo_digits -data_path=digits -output=output/pictures",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one kind of figure and print the paths of its files."""
    words = list(argv or ())
    if words and words[0] in KINDS:
        for path in KINDS[words[0]](words[1:]):
            print(path)
        return
    kinds = "\n".join(f"  {kind:13} {action.__doc__}" for kind, action in KINDS.items())
    parser = verb_parser(
        "visualize", f"{__doc__}\n\n{kinds}\n\nvisualize KIND --help lists its flags.", EXAMPLES
    )
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help="one of the above")
    parser.parse_args(words)


def _attention(argv: Sequence[str]) -> list[Path]:
    """attention of a classifier: rollout through all blocks, mean and heads of single blocks: attention.png"""
    parser = verb_parser("visualize attention", _attention.__doc__, EXAMPLES[:1])
    add_model(parser)
    add_images(parser)
    parser.add_argument("--layers", type=int, nargs="+", help="blocks from 0 (default: first, middle, last)")
    parser.add_argument("--output", type=Path, default=Path("attention.png"), help="default: attention.png")
    add_device(parser)
    given = parser.parse_args(argv)
    use_device(given.device)
    predictor = require_classifier(model_from(given), "attention maps")
    files = [file for source in given.images for file in find_images(source)]
    return [draw_attention(predictor, files, given.output, blocks=given.layers)]


def _predictions(argv: Sequence[str]) -> list[Path]:
    """validation images with the predicted class, mistakes first: predictions.png"""
    parser = verb_parser("visualize predictions", f"{_predictions.__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES[1:2])
    parser.add_argument("--count", type=int, default=40, help="images (default: 40)")
    given, config = with_config(parser, argv)
    return [draw_predictions(config, given.count)]


def _confusion(argv: Sequence[str]) -> list[Path]:
    """confusion matrix and table of classes on the validation images: confusion.png, classes.csv"""
    parser = verb_parser("visualize confusion", f"{_confusion.__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES[2:3])
    return draw_confusion(with_config(parser, argv)[1])


def _curves(argv: Sequence[str]) -> list[Path]:
    """training and validation curves of a run folder: curves.png"""
    parser = verb_parser("visualize curves", _curves.__doc__, EXAMPLES[3:4])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="output folder of a run")
    parser.add_argument("--output", type=Path, help="default: curves.png in the folder")
    given = parser.parse_args(argv)
    return [draw_curves(given.folder, given.output)]


def _schedule(argv: Sequence[str]) -> list[Path]:
    """learning rate, weight decay and layer decay of a config: schedule.png"""
    parser = verb_parser("visualize schedule", f"{_schedule.__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES[4:5])
    parser.add_argument("--images", type=int, help="training images (default: those of the data set)")
    given, config = with_config(parser, argv)
    return [draw_schedule(config, given.images)]


def _augmentation(argv: Sequence[str]) -> list[Path]:
    """images and random training views of them: augmentation.png"""
    parser = verb_parser(
        "visualize augmentation", f"{_augmentation.__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES[5:6]
    )
    parser.add_argument("sources", metavar="IMAGE", nargs="*", help="default: the first training images")
    parser.add_argument("--count", type=int, default=6, help="images (default: 6)")
    given, config = with_config(parser, argv)
    return [draw_augmentation(config, given.sources, given.count)]


def _masked(argv: Sequence[str]) -> list[Path]:
    """pre-training: images, masked images, and the decoded tokens of tokenizer and model"""
    parser = verb_parser("visualize masked", f"{_masked.__doc__}\n\n{CONFIG_FLAGS}", ())
    parser.add_argument("--count", type=int, default=8, help="images (default: 8)")
    given, config = with_config(parser, argv)
    return draw_masked(config, given.count)


def _codes(argv: Sequence[str]) -> list[Path]:
    """tokenizers: code maps, patches of single codes, usage of the codebook, reconstructions"""
    parser = verb_parser("visualize codes", f"{_codes.__doc__}\n\n{CONFIG_FLAGS}", ())
    parser.add_argument(
        "--code", type=int, nargs="+", default=(), help="codes to show (default: the four most frequent)"
    )
    parser.add_argument("--images", type=int, default=256, help="images to encode (default: 256)")
    given, config = with_config(parser, argv)
    drawn = draw_tokens(config, codes=tuple(given.code), images=given.images)
    return save_images(drawn, Path(config.SAVE))


KINDS: dict[str, Callable[[Sequence[str]], list[Path]]] = {
    "attention": _attention,
    "predictions": _predictions,
    "confusion": _confusion,
    "curves": _curves,
    "schedule": _schedule,
    "augmentation": _augmentation,
    "masked": _masked,
    "codes": _codes,
}
"""Kind of figure -> function that draws it from the remaining arguments."""
