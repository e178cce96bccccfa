"""`python -m beit predict`: predict images with a model, and print the results as a table, as JSON or as CSV."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from beit.figures import save_image
from beit.flags import Parser
from beit.imagenet_classes import first_synonym
from beit.logging import format_table, progress
from beit.predict.classifier import Classifier
from beit.predict.exported import ExportedClassifier
from beit.predict.inference import predict_each, require_classifier
from beit.predict.inputs import find_images
from beit.predict.predictor import Predictor
from beit.printable import printable, printable_json
from beit.streams import stdout_to_stderr
from beit.tables import as_text
from beit.tools.arguments import positive, verb_parser
from beit.tools.model_arguments import add_device, add_engine, add_images, add_model, model_from, use_device

EXAMPLES = (
    "python -m beit predict output/run photo.jpg",
    "python -m beit predict output/run pictures 'more/*.png' --topk 3 --csv > results.csv",
)
FAILED = 1
"""Exit status when some images could not be read."""

_NAME_LENGTH = 40  # longest class name in the table, characters


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions; returns 1 if an image could not be read, else 0."""
    given = build_parser().parse_args(argv)
    with stdout_to_stderr():
        entries = _predictions(given)
    _print(entries, given)
    failed = [entry for entry in entries if "error" in entry]
    for entry in failed:
        image, said = entry["image"], entry["error"]
        print(printable(f"error: {said if image in said else f'{image}: {said}'}"), file=sys.stderr)
    return FAILED if failed else 0


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("predict", __doc__, EXAMPLES)
    add_model(parser, takes_exports=True)
    add_images(parser)
    parser.add_argument("--topk", type=positive, default=5, help="classes shown (default: 5)")
    parser.add_argument("--batch-size", type=positive, default=16, help="images at a time (default: 16)")
    parser.add_argument(
        "--crops", type=int, choices=(1, 5),
        help="classifiers: average over crops, 5 for the corners and the center (default: as the run evaluates, or 1)",
    )  # fmt: skip
    parser.add_argument(
        "--flip", action="store_true", default=None, help="classifiers: average with mirrored images"
    )
    parser.add_argument(
        "--threshold", type=float,
        help="TASK: multilabel: show the classes with at least this score (default: TEST.THRESHOLD of the run)",
    )  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON list with one entry per image")
    form.add_argument("--csv", action="store_true", help="print CSV: image, rank, class, label, score, error")
    parser.add_argument(
        "--save",
        "--output",
        metavar="FOLDER",
        help="segmentation and pre-training: also draw the results into this folder",
    )
    add_device(parser)
    add_engine(parser)
    return parser


def _predictions(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The result of each image, or the reason why it has none."""
    use_device(given.device)
    predictor = model_from(given)
    if given.crops or given.flip:
        predictor = require_classifier(predictor, "--crops and --flip").with_views(given.crops, given.flip)
    if given.threshold is not None:
        if not isinstance(predictor, Classifier | ExportedClassifier):
            raise ValueError("--threshold needs the weights of a classifier")
        predictor = predictor.with_threshold(given.threshold)
    if given.save and isinstance(predictor, Classifier | ExportedClassifier):
        raise ValueError(
            "--save draws the results of segmentation and pre-training; for the attention and the classes of a classifier say "
            "`beit visualize attention`"
        )
    files, entries = _files(given.images)
    places = _places(files)
    steps = predict_each(predictor, files, topk=given.topk, batch_size=given.batch_size)
    for file, result in progress(steps, len(files), "predict", rank=0):
        if isinstance(result, dict):
            if given.save:
                _save(predictor, Path(str(file)), result, Path(given.save) / places[Path(str(file))])
            entries.append({"image": str(file), **predictor.summary(result, given.topk)})
        else:
            entries.append({"image": str(file), "error": getattr(result, "reason", str(result))})
    return entries


def _files(sources: Sequence[str]) -> tuple[list[Path], list[dict[str, Any]]]:
    """The image files of all sources, each once, and an entry with the error for each source that has none."""
    files: dict[Path, None] = {}
    missing: list[dict[str, Any]] = []
    for source in sources:
        try:
            files |= dict.fromkeys(find_images(source))
        except (FileNotFoundError, ValueError) as error:
            missing.append({"image": source, "error": str(error)})
    return list(files), missing


def _print(entries: list[dict[str, Any]], given: argparse.Namespace) -> None:
    if given.json:
        print(printable_json(entries))
    elif given.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("image", "rank", "class", "label", "score", "error"))
        for entry in entries:
            found = entry.get("labels", entry.get("topk"))
            rows = found or [{"class": "", "label": "", "score": entry.get("mask_accuracy", "")}]
            for rank, row in enumerate(rows, start=1):
                image, name, error = map(printable, (entry["image"], row["class"], entry.get("error", "")))
                cells = (image, rank, name, row["label"], row["score"], error)
                writer.writerow(map(as_text, cells))
    else:
        print(_table([entry for entry in entries if "error" not in entry]))


def _table(entries: list[dict[str, Any]]) -> str:
    rows = [(printable(entry["image"]), printable("  |  ".join(_cells(entry)))) for entry in entries]
    return format_table(rows, left=2)


def _cells(entry: dict[str, Any]) -> list[str]:
    found = entry.get("labels", entry.get("topk"))
    if found is not None:
        return [f"{_short(row['class'])} {100 * row['score']:.1f} %" for row in found] or ["no class"]
    masked = sum(token >= 0 for row in entry["pred_tokens"] for token in row)
    cells = [f"{masked} patches masked"]
    if "mask_accuracy" in entry:
        cells.append(f"{100 * entry['mask_accuracy']:.1f} % of their tokens correct")
    return cells


def _short(name: str) -> str:
    """The first synonym of a WordNet name, cut to a maximum length."""
    first = first_synonym(name)
    return first if len(first) <= _NAME_LENGTH else f"{first[: _NAME_LENGTH - 1]}…"


def _places(files: Sequence[Path]) -> dict[Path, Path]:
    """Where the drawings of each file go, below the folder of `--save`, without their ending.

    It is the name of the file; where several files have this name, it follows the folders of these files.
    """
    counts = Counter(file.name for file in files)
    folders = {file: file.parent.resolve() for file in files if counts[file.name] > 1}
    common = os.path.commonpath(folders.values()) if folders else ""
    return {
        file: folders[file].relative_to(common) / file.name if file in folders else Path(file.name)
        for file in files
    }


def _save(predictor: Predictor, file: Path, result: dict[str, Any], place: Path) -> None:
    """Write what the predictor draws, e.g. `photo.jpg_overlay.png`."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for ending, image in predictor.draw(predictor.open(file), result).items():
        save_image(image, place.with_name(f"{place.name}_{ending}.png"))
