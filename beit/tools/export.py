"""`python -m beit export`: a model as a static graph of Paddle, and as ONNX, compared with the model before it is left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from beit.data.batch_transforms import normalize
from beit.deploy.description import FILE_NAME, GRAPH, Description, write_description
from beit.deploy.graph import write_graph, write_int8, write_onnx
from beit.deploy.network import OUTPUTS, ExportedNetwork, fixed_pools
from beit.deploy.parity import TOLERANCE, Reference, agreement, largest_difference
from beit.deploy.runner import load_runner
from beit.models.segmentation_heads import resize_bilinear
from beit.predict.classifier import Classifier
from beit.predict.inputs import find_images
from beit.predict.segmentation import Segmenter
from beit.preprocessing import Preprocessing
from beit.tools.arguments import verb_parser
from beit.tools.model_arguments import add_model, model_from

OUTPUTS_OF = {
    Classifier: ("logits", "probabilities", "topk", "features"),
    Segmenter: ("logits", "class_map"),
}
"""What each kind of model can be exported with; the first is what it gives unless told otherwise."""

EXAMPLES = (
    "python -m beit export output/run exported --pictures pictures --output topk --bfloat16",
    "python -m beit export output/run exported --pictures photo.jpg 'more/*.png' --onnx --int8",
)

_PICTURES = 8  # compared; more tell nothing new about a graph


def export(
    source: Classifier | Segmenter,
    folder: str | Path,
    pictures: Sequence[Path],
    *,
    output: str = "logits",
    normalized: bool = False,
    topk: int = 5,
    onnx: bool = False,
    int8: bool = False,
    bfloat16: bool = False,
    tolerance: float = TOLERANCE,
) -> Description:
    """Write a model into a folder: `model.json` (or `.pdmodel`), `model.pdiparams`, `export.json`, and `model.onnx`.

    Every file is run on the pictures, in batches of one, two and all, and compared with the model itself. The folder
    only appears when they agree; a former export in it is replaced.

    Args:
        source: the model with its preprocessing and class names.
        folder: to write; new, or of a former export.
        pictures: real ones; of many, eight spread over the list are taken.
        output: what the graph ends with, of `OUTPUTS_OF`.
        normalized: leave the normalization outside: the graph takes float32 that is normalized. Else uint8.
        topk: classes of "topk".
        onnx: write ONNX too.
        int8: write ONNX with 8-bit weights too, and measure what it changes.
        bfloat16: measure what Paddle's bfloat16 arithmetic changes on this CPU.
        tolerance: largest difference allowed, as a share of the model's largest value (at least 1).

    Returns: the description, whose `measured` has the largest difference by backend.

    Raises:
        ValueError: no such output, a folder of something else, a graph that differs from the model or gives NaN; no
            files are left then.
        ImageError: a picture cannot be read.
    """
    target = Path(folder)
    _check_target(target)
    if not pictures:
        raise ValueError("no pictures to compare on were given")
    description = _describe(source, output, normalized)
    images = np.stack([description.open(path) for path in _spread(pictures)])
    mean, std = description.preprocessing.mean, description.preprocessing.std
    inside: dict[str, Any] = {} if normalized else {"mean": mean, "std": std}
    source.model.eval()
    network = ExportedNetwork(
        source.model, output, size=description.image_size, topk=_classes(source, topk), **inside
    )
    reference = _reference(source, description)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        with fixed_pools(network):
            write_graph(network, work / GRAPH)
        if onnx or int8:
            write_onnx(work / GRAPH, description.outputs)
        write_description(work, description)
        backends = ("paddle", "onnx") if onnx or int8 else ("paddle",)
        measured = _compare(work, reference, images, backends, tolerance)
        if int8:
            write_int8(work / GRAPH)
            measured["int8"] = agreement(load_runner(work, "onnx", precision="int8"), reference, images)
        if bfloat16:
            measured["bfloat16"] = _bfloat16(work, reference, images)
        description = replace(description, measured=measured)
        write_description(work, description)
        _move(work, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return description


def _spread(pictures: Sequence[Path]) -> list[Path]:
    count = min(_PICTURES, len(pictures))
    return [pictures[k * len(pictures) // count] for k in range(count)]


def _describe(source: Classifier | Segmenter, output: str, normalized: bool) -> Description:
    possible = next(outputs for kind, outputs in OUTPUTS_OF.items() if isinstance(source, kind))
    if output not in possible:
        raise ValueError(
            f"output {output!r} does not go with this model; choose one of {', '.join(possible)}"
        )
    if isinstance(source, Classifier):
        if not source.model.num_classes and output != "features":
            raise ValueError("the model has no head, it gives features: choose the output 'features'")
        encoder, wants = source.model, source.preprocessing
    else:
        encoder, options = source.model.backbone, source.open_options
        wants = Preprocessing(
            (source.mean[0], source.mean[1], source.mean[2]),
            (source.std[0], source.std[1], source.std[2]),
            interpolation="bilinear",
            squash=True,
            source="config",
            exif_orientation=options.get("exif_orientation", False),
        )
    size = encoder.patch_embed.image_size
    return Description(
        task="classify" if isinstance(source, Classifier) else "segment",
        output=output,
        outputs=OUTPUTS[output],
        image_size=(int(size[0]), int(size[1])),
        normalized=normalized,
        preprocessing=wants,
        class_names=source.class_names,
        palette=source.palette if isinstance(source, Segmenter) else (),
    )


def _classes(source: Classifier | Segmenter, topk: int) -> int:
    if topk < 1:
        raise ValueError(f"topk={topk}; expected 1 or more")
    return min(topk, source.model.num_classes)


def _reference(source: Classifier | Segmenter, description: Description) -> Reference:
    """What the model itself makes of uint8 images, by the code that predicts."""
    mean, std, model = description.preprocessing.mean, description.preprocessing.std, source.model
    assert mean is not None and std is not None  # no predictor is built without
    run = model.extract_feat if description.output == "features" else model

    def reference(pixels: np.ndarray) -> np.ndarray:
        with paddle.no_grad():
            values = run(normalize(paddle.to_tensor(pixels), mean, std))
            if description.output == "class_map":
                values = resize_bilinear(values, description.image_size)
            return values.numpy()

    return reference


def _compare(
    folder: Path, reference: Reference, images: np.ndarray, backends: Sequence[str], tolerance: float
) -> dict[str, Any]:
    batches = sorted({1, min(2, len(images)), len(images)})
    measured: dict[str, Any] = {"pictures": len(images), "batches": batches, "tolerance": tolerance}
    for backend in backends:
        runner = load_runner(folder, backend)
        difference = max(largest_difference(runner, reference, images, batch) for batch in batches)
        if not difference <= tolerance:
            raise ValueError(
                f"on {backend} the exported graph differs from the model by {difference:g} of its largest value; "
                f"{tolerance:g} is allowed. No files were left"
            )
        measured[backend] = difference
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
        raise ValueError(f"{target} exists and is no export; name a new folder")


def _move(work: Path, target: Path) -> None:
    """The finished folder in the place of a former one."""
    work.chmod(0o755)  # temporary folders are private
    if target.exists():
        shutil.rmtree(target)
    work.rename(target)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `export`; prints what was written and how far it is from the model."""
    parser = verb_parser("export", __doc__, EXAMPLES)
    add_model(parser)
    parser.add_argument("folder", metavar="FOLDER", help="where the export goes")
    parser.add_argument(
        "--pictures", required=True, nargs="+", metavar="PATH", help="real ones to compare on: files, folders"
    )
    parser.add_argument(
        "--output", choices=OUTPUTS, default="logits",
        help="what the graph ends with; topk: softmax and the best classes; class_map: segmentation (default: logits)",
    )  # fmt: skip
    parser.add_argument(
        "--topk", type=int, default=5, metavar="K", help="classes of --output topk (default: 5)"
    )
    parser.add_argument(
        "--normalized", action="store_true", help="take float32 that is normalized already, not uint8"
    )
    parser.add_argument("--onnx", action="store_true", help="write ONNX too (extra: onnx)")
    parser.add_argument(
        "--int8", action="store_true", help="write ONNX with 8-bit weights too, and measure it"
    )
    parser.add_argument("--bfloat16", action="store_true", help="measure bfloat16 on this CPU")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="SHARE",
        help=f"largest difference, as a share of the model's largest value (default: {TOLERANCE:g})",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    predictor = model_from(arguments)
    if not isinstance(predictor, Classifier | Segmenter):
        raise ValueError(
            "this is a model of masked pictures; export its encoder with a config of TASK: classify"
        )
    description = export(
        predictor,
        arguments.folder,
        [file for path in arguments.pictures for file in find_images(path)],
        output=arguments.output,
        normalized=arguments.normalized,
        topk=arguments.topk,
        onnx=arguments.onnx,
        int8=arguments.int8,
        bfloat16=arguments.bfloat16,
        tolerance=arguments.tolerance,
    )
    print(describe(Path(arguments.folder), description))


def describe(folder: Path, description: Description) -> str:
    """What an export holds and what was measured, in lines."""
    measured = description.measured
    height, width = description.image_size
    given = "float32, normalized" if description.normalized else "uint8"
    lines = [
        f"{folder}: {description.task}, images {given} [B, 3, {height}, {width}] to {', '.join(description.outputs)}",
        *(f"  {file.name}  {file.stat().st_size / 1e6:.1f} MB" for file in sorted(folder.iterdir())),
        f"compared with the model on {measured['pictures']} pictures, batches of {measured['batches']}:",
    ]
    for name in ("paddle", "onnx"):
        if name in measured:
            lines.append(
                f"  {name}: largest difference {measured[name]:.1e} ({measured['tolerance']:g} allowed)"
            )
    for name in ("bfloat16", "int8"):
        found = measured.get(name)
        if isinstance(found, str):
            lines.append(f"  {name}: {found}")
        elif found:
            same = f", same first class {100 * found['same_class']:.1f} %" if "same_class" in found else ""
            lines.append(f"  {name}: largest difference {found['largest']:.1e}{same}")
    return "\n".join(lines)
