"""Arguments of verbs that predict: the model, its preprocessing and class names, and the device."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import paddle

from beit.cpu import tune_cpu
from beit.deploy.engines import AUTO, ENGINES, PRECISIONS
from beit.deploy.export import Exportable
from beit.imagenet_classes import CLASS_LISTS
from beit.metadata.class_names import ClassNames, parse_class_names
from beit.parallel import ranks
from beit.predict.exportable import load_exportable
from beit.predict.inference import load_predictor
from beit.predict.predictor import Predictor
from beit.text_files import read_text
from beit.tools.arguments import add_preprocessing, preprocessing_from


def add_model(parser: argparse.ArgumentParser, *, takes_exports: bool = False) -> None:
    """Add `MODEL`, `--cfg`, `--key`, `--class-names`, `--image-size`, and flags for the preprocessing.

    Args:
        parser: of a verb.
        takes_exports: whether the verb also takes folders of `beit export`, for the help of `MODEL`.
    """
    exported = ", exported folder" if takes_exports else ""
    parser.add_argument(
        "model", metavar="MODEL", help=f"run folder, checkpoint{exported}, or name of a published model"
    )
    parser.add_argument("--cfg", help="config of the weights, if it is not beside them")
    parser.add_argument(
        "--key",
        metavar="KEY",
        help="where MODEL holds several state dicts: the key or prefix of the one to take",
    )
    parser.add_argument(
        "--class-names", metavar="NAMES", help=f"file with one name per line, or {' or '.join(CLASS_LISTS)}"
    )
    parser.add_argument(
        "--image-size", metavar="SIZE", type=_image_size,
        help="pixels of the model's input, 384 or 384x512 (height x width); positions are resized",
    )  # fmt: skip
    add_preprocessing(parser)


def add_images(parser: argparse.ArgumentParser) -> None:
    """Add `IMAGE …`: files, folders and patterns."""
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="files, folders, patterns in quotes")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"))


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add `--engine` and `--precision`."""
    parser.add_argument(
        "--engine", default=AUTO, choices=(AUTO, *ENGINES),
        help="what runs the network; auto: on a CPU OpenVINO or onnxruntime if installed, else Paddle (default: auto)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", default="float32", choices=PRECISIONS,
        help="of the engine: bfloat16 on OpenVINO, int8 on OpenVINO and onnxruntime (default: float32)",
    )  # fmt: skip


def use_device(name: str) -> None:
    """Select the device; on a CPU also apply the fast settings and print them as one line on stderr.

    Raises:
        ValueError: there is no GPU.
    """
    device = ranks.choose_device(name)
    paddle.set_device(device)
    if device == "cpu":
        print(tune_cpu(), file=sys.stderr)


def model_from(given: argparse.Namespace) -> Predictor:
    """The model of the arguments that `add_model` added, on the engine of `add_engine` or on Paddle.

    Raises:
        ValueError, FileNotFoundError, OSError: as `beit.load_predictor`.
    """
    engine, precision = getattr(given, "engine", "paddle"), getattr(given, "precision", "float32")
    return load_predictor(given.model, **_weights_options(given), engine=engine, precision=precision)


def exportable_from(given: argparse.Namespace) -> Exportable:
    """As `model_from`, also for tokenizers.

    Raises:
        ValueError, FileNotFoundError, OSError: as `beit.predict.exportable.load_exportable`.
    """
    return load_exportable(given.model, **_weights_options(given))


def _weights_options(given: argparse.Namespace) -> dict[str, Any]:
    return {
        "key": given.key,
        "config": given.cfg,
        "image_size": given.image_size,
        "preprocessing": preprocessing_from(given),
        "class_names": _class_names(given.class_names),
    }


def _class_names(given: str | None) -> ClassNames | None:
    if given is None or given in CLASS_LISTS:
        return given
    return parse_class_names(read_text(given))


def _image_size(text: str) -> tuple[int, int]:
    height, times, width = text.partition("x")
    if not times:
        width = height
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text}: expected pixels such as 384, or 384x512 (height x width)")
    return int(height), int(width)
