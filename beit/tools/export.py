"""`python -m beit export`: write a model as a static graph of Paddle, also as ONNX, after comparing it with the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from beit.card import CARD, write_card
from beit.deploy.description import Description
from beit.deploy.engines import ENGINES
from beit.deploy.export import export
from beit.deploy.network import OUTPUTS
from beit.deploy.parity import TOLERANCE
from beit.flags import Parser
from beit.predict.inputs import find_images
from beit.tools.arguments import positive, verb_parser
from beit.tools.model_arguments import add_device, add_model, exportable_from, use_device

EXAMPLES = (
    "python -m beit export output/run exported --pictures pictures --output topk --bfloat16",
    "python -m beit export output/run exported --pictures photo.jpg 'more/*.png' --onnx --int8",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Export a model; print what was written and how much it differs from the model."""
    given = build_parser().parse_args(argv)
    use_device(given.device)
    description = export(
        exportable_from(given),
        given.folder,
        [file for path in given.pictures for file in find_images(path)],
        output=given.output,
        normalized=given.normalized,
        topk=given.topk,
        onnx=given.onnx,
        int8=given.int8,
        bfloat16=given.bfloat16,
        tolerance=given.tolerance,
    )
    folder = Path(given.folder)
    used = replace(description.preprocessing, image_size=description.image_size)
    differences = {
        f"largest difference from the model on {engine}": f"{description.measured[engine]:.1e}"
        for engine in ENGINES
        if engine in description.measured
    }
    write_card(
        folder / CARD,
        given.model,
        key=given.key,
        used=used,
        class_names=description.class_names,
        measured=differences,
    )
    print(describe(folder, description))


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("export", __doc__, EXAMPLES)
    add_model(parser)
    parser.add_argument("folder", metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--pictures", required=True, nargs="+", metavar="PATH",
        help="real images to compare on: files, folders, patterns in quotes",
    )  # fmt: skip
    parser.add_argument(
        "--output", choices=OUTPUTS,
        help="what the graph returns; topk: probabilities and numbers of the best classes; class_map: segmentation; "
        "codes: token ids of a tokenizer (default: logits, for a tokenizer codes)",
    )  # fmt: skip
    parser.add_argument(
        "--topk", type=positive, default=5, metavar="K", help="classes of --output topk (default: 5)"
    )
    parser.add_argument(
        "--normalized", "--normalised", action="store_true",
        help="the graph takes normalized float32 images, not uint8",
    )  # fmt: skip
    parser.add_argument("--onnx", action="store_true", help="also write ONNX (extra: onnx)")
    parser.add_argument(
        "--int8", action="store_true", help="also write ONNX with 8-bit weights, and measure it"
    )
    parser.add_argument("--bfloat16", action="store_true", help="measure bfloat16 on this CPU")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="SHARE",
        help=f"largest difference, relative to the model's largest value (default: {TOLERANCE:g})",
    )  # fmt: skip
    add_device(parser)
    return parser


def describe(folder: Path, description: Description) -> str:
    """The files of an export and what was measured, as lines of text."""
    measured = description.measured
    height, width = description.image_size
    dtype = "float32, normalized" if description.normalized else "uint8"
    lines = [
        f"{folder}: {description.task}, images {dtype} [B, 3, {height}, {width}] to {', '.join(description.outputs)}",
        *(f"  {file.name}  {file.stat().st_size / 1e6:.1f} MB" for file in sorted(folder.iterdir())),
        f"compared with the model on {measured['pictures']} images, batches of {measured['batches']}:",
    ]
    for name in ENGINES:
        if name in measured:
            lines.append(
                f"  {name}: largest difference {measured[name]:.1e} ({measured['tolerance']:g} allowed)"
            )
    for name in ("bfloat16", "int8"):
        found = measured.get(name)
        if isinstance(found, str):
            lines.append(f"  {name}: {found}")
        elif found:
            choice = "token id" if description.output == "codes" else "first class"
            same = f", same {choice} {100 * found['same_class']:.1f} %" if "same_class" in found else ""
            lines.append(f"  {name}: largest difference {found['largest']:.1e}{same}")
    return "\n".join(lines)
