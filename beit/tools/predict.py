"""`python -m beit predict`: what a model says of pictures, for people, as JSON or as CSV."""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from beit.data.imagenet_classes import CLASS_LISTS
from beit.data.images import open_image
from beit.logging import progress
from beit.predict.inference import Predictor, load_predictor, predict_each
from beit.predict.inputs import find_images
from beit.predict.masked import MaskedModel, draw_masked_prediction
from beit.predict.segmentation import Segmenter
from beit.predict.segmentation_overlays import overlay_classes, palette_image
from beit.tools.arguments import add_preprocessing, preprocessing_from, verb_parser
from beit.tools.model_arguments import add_device, use_device

EXAMPLES = (
    "python -m beit predict output/run photo.jpg",
    "python -m beit predict output/run pictures 'more/*.png' --topk 3 --csv > results.csv",
)
_SHOWN = 40  # characters of a name in the table
FAILED = 1
"""Exit status when some pictures could not be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions; 1 when a picture could not be read."""
    given = _arguments(argv)
    use_device(given.device)
    predictor = load_predictor(
        given.model,
        config=given.cfg,
        preprocessing=preprocessing_from(given),
        class_names=_class_names(given.class_names),
    )
    files, entries = _files(given.pictures)
    steps = predict_each(predictor, files, topk=given.topk, batch_size=given.batch_size)
    for file, result in progress(steps, len(files), "predict", rank=0):
        if isinstance(result, dict):
            if given.save:
                _save(predictor, Path(str(file)), result, Path(given.save))
            entries.append(_entry(result, given.topk))
        else:
            entries.append({"image": str(file), "error": getattr(result, "reason", str(result))})
    _print(entries, given)
    failed = [entry for entry in entries if "error" in entry]
    for entry in failed:
        print(f"error: {entry['image']}: {entry['error']}", file=sys.stderr)
    return FAILED if failed else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = verb_parser("predict", __doc__, EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="run folder, checkpoint, or name of a published model")
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", help="files, folders, patterns in quotes")
    parser.add_argument("--topk", type=int, default=5, help="classes shown (default: 5)")
    parser.add_argument("--batch-size", type=int, default=16, help="pictures at a time (default: 16)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON list, one entry a picture")
    form.add_argument("--csv", action="store_true", help="print CSV: image, rank, class, label, score, error")
    parser.add_argument(
        "--save", metavar="FOLDER", help="segmentation and pre-training: write pictures there"
    )
    parser.add_argument("--cfg", help="config of the weights, where it is not beside them")
    parser.add_argument(
        "--class-names", metavar="NAMES", help=f"file with a name a line, or {' or '.join(CLASS_LISTS)}"
    )
    add_device(parser)
    add_preprocessing(parser)
    given = parser.parse_args(argv)
    for flag, value in (("--topk", given.topk), ("--batch-size", given.batch_size)):
        if value < 1:
            parser.error(f"{flag} {value}: expected 1 or more")
    return given


def _class_names(given: str | None) -> tuple[str, ...] | str | None:
    if given is None or given in CLASS_LISTS:
        return given
    lines = Path(given).read_text(encoding="utf-8-sig").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _files(sources: Sequence[str]) -> tuple[list[Path], list[dict[str, Any]]]:
    """The pictures that were named, each once, and entries for what is not there."""
    files: dict[Path, None] = {}
    missing: list[dict[str, Any]] = []
    for source in sources:
        try:
            files |= dict.fromkeys(find_images(source))
        except (FileNotFoundError, ValueError) as error:
            missing.append({"image": source, "error": str(error)})
    return list(files), missing


def _entry(result: dict[str, Any], topk: int) -> dict[str, Any]:
    """A result without its arrays. Of a segmented picture the largest classes, their share as score."""
    if "classes" in result:
        rows = [
            {"class": row["name"], "label": row["class"], "score": row["share"]} for row in result["classes"]
        ]
        return {"image": result["image"], "topk": rows[:topk]}
    if "pred_tokens" in result:
        entry = {"image": result["image"], "pred_tokens": result["pred_tokens"].tolist()}
        return entry | {name: result[name] for name in ("mask_accuracy",) if name in result}
    return {name: value for name, value in result.items() if name != "pred_scores"}


def _print(entries: list[dict[str, Any]], given: argparse.Namespace) -> None:
    if given.json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    elif given.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(("image", "rank", "class", "label", "score", "error"))
        for entry in entries:
            rows = entry.get("topk") or [{"class": "", "label": "", "score": entry.get("mask_accuracy", "")}]
            for rank, row in enumerate(rows, start=1):
                line = (
                    entry["image"],
                    rank,
                    row["class"],
                    row["label"],
                    row["score"],
                    entry.get("error", ""),
                )
                writer.writerow(line)
    else:
        print(_table([entry for entry in entries if "error" not in entry]))


def _table(entries: list[dict[str, Any]]) -> str:
    width = max((len(entry["image"]) for entry in entries), default=0)
    lines = []
    for entry in entries:
        if "topk" in entry:
            cells = [f"{_short(row['class'])} {100 * row['score']:.1f} %" for row in entry["topk"]]
        else:
            hidden = sum(token >= 0 for row in entry["pred_tokens"] for token in row)
            cells = [f"{hidden} patches hidden"]
            if "mask_accuracy" in entry:
                cells.append(f"{100 * entry['mask_accuracy']:.1f} % of their tokens right")
        lines.append(f"{entry['image']:{width}}  {'  |  '.join(cells)}")
    return "\n".join(lines)


def _short(name: str) -> str:
    """The first lemma of a WordNet name, of a bounded length."""
    first = name.split(", ")[0]
    return first if len(first) <= _SHOWN else f"{first[: _SHOWN - 1]}…"


def _save(predictor: Predictor, file: Path, result: dict[str, Any], folder: Path) -> None:
    """`NAME_overlay.png` and `NAME_classes.png` of a segmented picture, `NAME_masked.png` of pre-training."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if isinstance(predictor, Segmenter):
        image = open_image(file, **predictor.open_options)
        classes = result["pred_sem_seg"]
        overlay_classes(image, classes, predictor.class_names, predictor.palette).save(
            f"{target}_overlay.png"
        )
        palette_image(classes, predictor.palette).save(f"{target}_classes.png")
    elif isinstance(predictor, MaskedModel):
        Image.fromarray(draw_masked_prediction(result)).save(f"{target}_masked.png")
