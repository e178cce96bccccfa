"""Export of a model: a static graph of Paddle and ONNX files, compared with the model before they are kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle
from paddle import nn

from beit.data.batch_transforms import normalize
from beit.deploy.description import (
    FILE_NAME,
    GRAPH,
    Description,
    digests,
    read_description,
    write_description,
)
from beit.deploy.engines import ENGINES, is_installed
from beit.deploy.graph import write_graph, write_int8, write_onnx
from beit.deploy.network import OUTPUTS, ExportedNetwork, fixed_pools, forward_of, probabilities
from beit.deploy.parity import TOLERANCE, Reference, agreement, largest_difference
from beit.deploy.runner import load_runner
from beit.models.segmentation_heads import resize_bilinear
from beit.preprocessing import Preprocessing

OUTPUTS_OF_TASK = {
    "classify": ("logits", "probabilities", "topk", "features"),
    "segment": ("logits", "class_map"),
    "tokenizer": ("codes",),
}
"""TASK of a model -> outputs that it can be exported with; the first is the default."""

_NO_ENGINE = (
    "neither onnxruntime nor OpenVINO is installed, so the ONNX file could not be compared with the model: "
    'pip install "beit-paddle[onnx]"'
)
_MAX_IMAGES = 8  # images compared; more of them find nothing new about a graph


class Exportable(Protocol):
    """The members of a model that `export` reads; `beit.predict.exportable.load_exportable` returns one."""

    @property
    def task(self) -> str:
        """A key of `OUTPUTS_OF_TASK`."""

    @property
    def model(self) -> nn.Layer:
        """The network: normalized images `[B, 3, height, width]` to logits; of a tokenizer with `code_scores`."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the network's input, pixels."""

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are resized, cropped and normalized."""

    @property
    def num_classes(self) -> int:
        """K, for a tokenizer the number of codes; 0 for an encoder without a head."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the K classes."""

    @property
    def threshold(self) -> float | None:
        """Score from which on a class is predicted, where images have any number of labels; else None."""

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colors of the K classes of a segmentation model, else empty."""


def export(
    source: Exportable,
    folder: str | Path,
    images: Sequence[Path],
    *,
    output: str | None = None,
    normalized: bool = False,
    topk: int = 5,
    onnx: bool = False,
    int8: bool = False,
    bfloat16: bool = False,
    tolerance: float = TOLERANCE,
) -> Description:
    """Write a model into a folder: `model.json` (or `.pdmodel`), `model.pdiparams`, `export.json`, and `model.onnx`.

    Every file is run on the images, in batches of one, two and all, and compared with the model itself. The folder
    only appears if they agree; an earlier export in it is replaced, other files in it stay.

    Args:
        source: the model with its preprocessing and class names.
        folder: to write; new, or of an earlier export.
        images: real images; of more than eight, eight are taken at equal distances.
        output: what the graph returns, of `OUTPUTS_OF_TASK`; None for the first output of the task.
        normalized: the graph takes normalized float32 images; else it takes uint8 and normalizes them itself.
        topk: number of classes of the output "topk".
        onnx: also write ONNX.
        int8: also write ONNX with 8-bit weights, and measure what that changes.
        bfloat16: measure what Paddle's bfloat16 arithmetic changes on this CPU.
        tolerance: largest difference allowed, relative to the model's largest value (at least 1).

    Returns: the description; its `measured` holds the largest difference of each engine.

    Raises:
        ValueError: unknown output or task, a folder with files but no export, or files of others with the names of new
            ones, a graph that differs from the model or returns NaN. No files are written then.
        ImageError: an image cannot be read.
    """
    target = Path(folder)
    _check_target(target)
    if not images:
        raise ValueError("no images to compare on were given")
    description = _describe(source, output, normalized)
    pixels = np.stack([description.open(path) for path in _spread(images)])
    mean, std = description.preprocessing.mean, description.preprocessing.std
    statistics: dict[str, Any] = {} if normalized else {"mean": mean, "std": std}
    source.model.eval()
    options = {
        "size": description.image_size,
        "topk": _num_best(source, topk),
        "independent": description.threshold is not None,
        **statistics,
    }
    output, reference = description.output, _reference(source.model, description)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        with fixed_pools(source.model):
            write_graph(ExportedNetwork(source.model, output, **options), work / GRAPH)
            if onnx or int8:
                write_onnx(
                    ExportedNetwork(source.model, output, **options), work / GRAPH, description.outputs
                )
        write_description(work, description)
        engines = [name for name in ENGINES if name == "paddle" or ((onnx or int8) and is_installed(name))]
        if engines == ["paddle"] and (onnx or int8):
            raise ValueError(_NO_ENGINE)
        measured = _compare(work, reference, pixels, engines, tolerance)
        if int8:
            write_int8(work / GRAPH)
            measured["int8"] = agreement(
                load_runner(work, "onnxruntime", precision="int8"), reference, pixels
            )
        if bfloat16:
            measured["bfloat16"] = _bfloat16(work, reference, pixels)
        description = replace(description, measured=measured, files=digests(work))
        write_description(work, description)
        _check_others(work, target)
        _move(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return description


def _spread(images: Sequence[Path]) -> list[Path]:
    count = min(_MAX_IMAGES, len(images))
    return [images[k * len(images) // count] for k in range(count)]


def _describe(source: Exportable, output: str | None, normalized: bool) -> Description:
    if source.task not in OUTPUTS_OF_TASK:
        raise ValueError(
            f"a model of TASK: {source.task} cannot be exported; export its encoder with a config of TASK: classify"
        )
    possible = OUTPUTS_OF_TASK[source.task]
    output = output or possible[0]
    if output not in possible:
        raise ValueError(f"this model has no output {output!r}; choose one of {', '.join(possible)}")
    if not source.num_classes and output != "features":
        raise ValueError("the model has no head, only features: choose the output 'features'")
    preprocessing = source.preprocessing
    if source.task == "segment":  # a graph of one image size segments the whole image at that size
        preprocessing = replace(preprocessing, squash=True)
    return Description(
        task=source.task,
        output=output,
        outputs=OUTPUTS[output],
        image_size=source.image_size,
        normalized=normalized,
        preprocessing=preprocessing,
        class_names=source.class_names,
        palette=source.palette,
        threshold=source.threshold,
    )


def _num_best(source: Exportable, topk: int) -> int:
    if topk < 1:
        raise ValueError(f"topk={topk}; expected 1 or more")
    return min(topk, source.num_classes)


def _reference(model: nn.Layer, description: Description) -> Reference:
    """A function from uint8 images to the results of the model itself."""
    mean, std = description.preprocessing.mean, description.preprocessing.std
    assert mean is not None and std is not None  # no predictor is built without
    run = forward_of(model, description.output)

    def reference(pixels: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            values = run(normalize(paddle.to_tensor(pixels), mean, std))
            if description.output == "class_map":
                values = resize_bilinear(values, description.image_size)
            elif description.output in ("probabilities", "topk"):
                values = probabilities(values, independent=description.threshold is not None)
            return values.numpy()

    return reference


def _compare(
    folder: Path, reference: Reference, images: np.ndarray, engines: Sequence[str], tolerance: float
) -> dict[str, Any]:
    batches = sorted({1, min(2, len(images)), len(images)})
    # "pictures" is a key of the file format.
    measured: dict[str, Any] = {"pictures": len(images), "batches": batches, "tolerance": tolerance}
    for engine in engines:
        runner = load_runner(folder, engine)
        difference = max(largest_difference(runner, reference, images, batch) for batch in batches)
        if not difference <= tolerance:
            raise ValueError(
                f"on {engine} the exported graph differs from the model by {difference:g} of its largest value; "
                f"{tolerance:g} is allowed. No files were written"
            )
        measured[engine] = difference
    return measured


def _bfloat16(folder: Path, reference: Reference, images: np.ndarray) -> dict[str, float] | str:
    try:
        runner = load_runner(folder, precision="bfloat16")
    except ValueError as error:
        return str(error)
    return agreement(runner, reference, images)


def _check_target(target: Path) -> None:
    if (
        target.exists()
        and not (target / FILE_NAME).is_file()
        and (not target.is_dir() or any(target.iterdir()))
    ):
        raise ValueError(f"{target} exists and is not an export; name a new folder")


def _files_of_others(folder: Path) -> list[Path]:
    """What an earlier export has not written: model cards, files of the user."""
    if not folder.is_dir():
        return []
    try:
        own = read_description(folder).files
    except (OSError, ValueError):  # damaged
        own = {}
    # Exports of earlier versions do not list their files.
    return [
        path
        for path in folder.iterdir()
        if path.name != FILE_NAME and path.name not in own and (own or not path.name.startswith(f"{GRAPH}."))
    ]


def _check_others(work: Path, target: Path) -> None:
    """Refuse an earlier export in which others have added files with the names of new ones."""
    taken = sorted(path.name for path in _files_of_others(target) if (work / path.name).exists())
    if taken:
        raise ValueError(
            f"{target} has {', '.join(taken)}, which no export wrote there; move it, or name a new folder. No files were written"
        )


def _move(work: Path, target: Path) -> None:
    """Move the finished folder to its place, where it replaces an earlier export; files of others stay."""
    work.chmod(0o755)  # temporary folders are private
    earlier = work.with_name(f"{work.name}.earlier")
    if target.exists():  # removed last: a crash here loses nothing
        target.rename(earlier)
    work.rename(target)
    for path in _files_of_others(earlier):
        path.rename(target / path.name)
    shutil.rmtree(earlier, ignore_errors=True)
