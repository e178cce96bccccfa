"""`python -m beit report`: parameters, multiply-adds under four conventions, and memory of a config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import paddle

from beit.bench.counting import CONVENTIONS
from beit.bench.model_report import model_report
from beit.flags import Parser, config_from
from beit.logging import format_table
from beit.tools.arguments import config_parser, positive

EXAMPLES = (
    "python -m beit report -cfg=beit_base_patch16_224 --batch 64",
    "python -m beit report -cfg=beit_tiny_patch16_224 --json -opts MODEL.NUM_CLASSES 10",
)
_GIB = 2**30
_MEMORY_PARTS = {
    "weights": "float32",
    "gradients": "float32",
    "optimizer": "AdamW's two moments",
    "average": "TRAIN.MODEL_EMA",
    "activations": "of the blocks, kept for the backward pass",
}


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = config_parser("report", __doc__, EXAMPLES)
    parser.add_argument(
        "--batch", type=positive, help="images per device: estimate the memory of a training step"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report."""
    given = build_parser().parse_args(argv)
    config = config_from(given)
    paddle.set_device("cpu")
    result = model_report(config, given.batch)
    print(json.dumps(result, indent=2) if given.json else _text(result))


def _text(result: dict[str, Any]) -> str:
    size = "x".join(str(side) for side in result["image_size"])
    lines = [f"{result['model']} ({result['task']}, {size} pixels)", f"parameters  {result['parameters']:,}"]
    parts = result["parameters_by_part"]
    lines += _rows([(name, f"{number:,}") for name, number in parts.items()])
    if "multiply_adds" in result:
        counts = result["multiply_adds"]
        lines.append("multiply-adds of one image (one multiply-add is one; others print them as FLOPs)")
        lines += _rows(
            [(name, f"{number:,}") for name, number in counts.items()], [CONVENTIONS[name] for name in counts]
        )
    if "mmpretrain" in result:
        counts = result["mmpretrain"]
        lines.append(
            f"in mmpretrain's tables: {counts['parameters'] / 1e6:.2f} M parameters, {counts['flops'] / 1e9:.2f} G FLOPs"
        )
    if "memory" in result:
        float32, amp = result["memory"]["float32"], result["memory"]["amp"]
        lines.append(f"memory of a training step, {result['batch']} images on one device, estimated, GiB")
        rows = [(name, f"{float32[name] / _GIB:.2f}", f"{amp[name] / _GIB:.2f}") for name in float32]
        comments = [_MEMORY_PARTS.get(name, "") for name in float32]
        lines += _rows([("", "float32", "-amp"), *rows], ["", *comments])
        lines.append(
            "  not counted: decoding heads, tokenizer and teacher, workspaces, fragmentation, Paddle itself "
            "(about 0.5); python -m beit check measures a step"
        )
    return "\n".join(lines)


def _rows(rows: Sequence[Sequence[str]], comments: Sequence[str] = ()) -> list[str]:
    """Indented lines of a table whose first column is left-aligned, each followed by its comment."""
    lines = format_table(rows, left=1).splitlines()
    return [f"  {line}  {comment}".rstrip() for line, comment in zip_longest(lines, comments, fillvalue="")]
