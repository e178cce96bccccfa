"""`python -m beit visualize KIND`: pictures of what a model, its data or its training do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from beit.figures import Tile, draw_tiles
from beit.predict.attention_maps import image_attentions, image_maps, overlay, rollout_of
from beit.predict.classifier import Classifier
from beit.predict.inference import load_predictor
from beit.predict.inputs import find_images, open_input
from beit.predict.predictions import draw_confusion, draw_predictions
from beit.predict.run_figures import (
    draw_augmentation,
    draw_curves,
    draw_masked,
    draw_schedule,
    save_images,
)
from beit.predict.tokens import draw_tokens
from beit.tools.arguments import CONFIG_FLAGS, add_preprocessing, preprocessing_from, verb_parser, with_config
from beit.tools.model_arguments import add_device, use_device

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
_HEADS_SHOWN = 6


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one kind of picture and print where it is."""
    words = list(argv or ())
    if words and words[0] in KINDS:
        for path in KINDS[words[0]](words[1:]):
            print(path)
        return
    kinds = "\n".join(f"  {kind:13} {action.__doc__}" for kind, action in KINDS.items())
    parser = verb_parser("visualize", f"{__doc__}\n\n{kinds}\n\nvisualize KIND --help says more.", EXAMPLES)
    parser.add_argument("kind", choices=tuple(KINDS), metavar="KIND", help="one of the above")
    parser.parse_args(words)


def _attention(argv: Sequence[str]) -> list[Path]:
    """where a classifier looks: rollout through all blocks, mean and heads of chosen blocks"""
    parser = verb_parser("visualize attention", _attention.__doc__, EXAMPLES[:1])
    parser.add_argument("model", metavar="MODEL", help="run folder, checkpoint, or name of a published model")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="files, folders, patterns in quotes")
    parser.add_argument("--layers", type=int, nargs="+", help="blocks from 0 (default: first, middle, last)")
    parser.add_argument("--output", type=Path, default=Path("attention.png"), help="default: attention.png")
    parser.add_argument("--cfg", help="config of the weights, where it is not beside them")
    add_device(parser)
    add_preprocessing(parser)
    given = parser.parse_args(argv)
    use_device(given.device)
    predictor = load_predictor(given.model, config=given.cfg, preprocessing=preprocessing_from(given))
    if not isinstance(predictor, Classifier):
        raise ValueError("attention maps are those of a classifier or of an encoder")
    depth = predictor.model.depth
    layers = given.layers or sorted({0, depth // 2, depth - 1})
    wrong = [layer for layer in layers if not 0 <= layer < depth]
    if wrong:
        raise ValueError(f"--layers {wrong[0]}: the model has blocks 0 to {depth - 1}")
    files = [file for source in given.pictures for file in find_images(source)]
    tiles = [tile for file in files for tile in _attention_tiles(predictor, file, layers)]
    shown = min(_HEADS_SHOWN, predictor.model.blocks[0].attn.num_heads)
    return [draw_tiles(tiles, given.output, columns=1 + shown, side=1.8)]


def _attention_tiles(predictor: Classifier, file: Path, layers: Sequence[int]) -> list[Tile]:
    """Rows of equal length: the picture with its rollout, then for each block its mean and its first heads."""
    image = open_input(file, exif_orientation=predictor.preprocessing.exif_orientation)
    view = predictor.view(image)
    if min(view.size) < 128:  # tiny inputs: the colors of a patch should not blur into a spot
        factor = -(-128 // min(view.size))
        view = view.resize((view.width * factor, view.height * factor), resample=0)
    attentions = image_attentions(predictor, image)
    maps = image_maps(predictor, attentions)
    columns = 1 + min(_HEADS_SHOWN, len(maps[0]))
    title = "features"
    if predictor.model.num_classes:
        best = predictor([image], topk=1)[0]
        title = f"{best['pred_class'].split(', ')[0]} {100 * best['pred_score']:.0f} %"
    tiles = [
        Tile(np.asarray(view), f"{file.name}\n{title}"),
        Tile(np.asarray(overlay(view, rollout_of(predictor, attentions))), "rollout,\nall blocks"),
    ]
    tiles += [Tile(np.full((8, 8, 3), 255, np.uint8))] * (columns - len(tiles))
    for layer in layers:
        heads = maps[layer]
        tiles.append(
            Tile(np.asarray(overlay(view, heads.mean(axis=0))), f"block {layer},\nmean of {len(heads)}")
        )
        tiles += [
            Tile(np.asarray(overlay(view, head)), f"head {number}")
            for number, head in enumerate(heads[: columns - 1])
        ]
    return tiles


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
    """pictures and random training views of them: augmentation.png"""
    parser = verb_parser(
        "visualize augmentation", f"{_augmentation.__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES[5:6]
    )
    parser.add_argument("pictures", metavar="PICTURE", nargs="*", help="default: the first training images")
    parser.add_argument("--count", type=int, default=6, help="pictures (default: 6)")
    given, config = with_config(parser, argv)
    return [draw_augmentation(config, given.pictures, given.count)]


def _masked(argv: Sequence[str]) -> list[Path]:
    """pre-training: images, masks, and what tokenizer and model make of them"""
    parser = verb_parser("visualize masked", f"{_masked.__doc__}\n\n{CONFIG_FLAGS}", ())
    parser.add_argument("--count", type=int, default=8, help="images (default: 8)")
    given, config = with_config(parser, argv)
    return draw_masked(config, given.count)


def _codes(argv: Sequence[str]) -> list[Path]:
    """tokenizers: code maps, patches of codes, use of the codebook, reconstructions"""
    parser = verb_parser("visualize codes", f"{_codes.__doc__}\n\n{CONFIG_FLAGS}", ())
    parser.add_argument(
        "--code", type=int, nargs="+", default=(), help="codes to show (default: the four most frequent)"
    )
    parser.add_argument("--images", type=int, default=256, help="images looked at (default: 256)")
    given, config = with_config(parser, argv)
    pictures = draw_tokens(config, codes=tuple(given.code), images=given.images)
    return save_images(pictures, Path(config.SAVE))


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
"""Kind of picture -> what draws it."""
