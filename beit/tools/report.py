"""`python -m beit report`: parameters, multiply-adds under four conventions, and memory of a config."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import paddle
from paddle import nn
from yacs.config import CfgNode

from beit.beit import build_backbone, build_beit
from beit.bench.counting import (
    CONVENTIONS,
    count_by_part,
    count_multiply_adds,
    count_parameters,
    estimate_training_memory,
)
from beit.config import image_hw
from beit.models.mim import build_mim
from beit.models.tokenizer import build_vqkd
from beit.models.upernet import build_upernet
from beit.tools.arguments import CONFIG_FLAGS, verb_parser, with_config

EXAMPLES = (
    "python -m beit report -cfg=beit_base_patch16_224 --batch 64",
    "python -m beit report -cfg=beit_tiny_patch16_224 --json -opts MODEL.NUM_CLASSES 10",
)
_BUILDERS = {
    "classify": build_beit,
    "probe": build_backbone,
    "knn": build_backbone,
    "segment": build_upernet,
    "pretrain": build_mim,
    "tokenizer": build_vqkd,
}
_GIB = 2**30
_MEANINGS = {
    "weights": "float32",
    "gradients": "float32",
    "optimizer": "AdamW's two moments",
    "average": "TRAIN.MODEL_EMA",
    "activations": "of the blocks, kept for the backward pass",
}


def report(config: CfgNode, batch: int | None = None) -> dict[str, Any]:
    """Numbers of the network of a config.

    `parameters`, `parameters_by_part`; `multiply_adds` of one image of DATA.IMAGE_SIZE by convention (not for
    tokenizers); with a batch size `memory`: bytes by what they hold for a training step in float32 and with -amp.
    """
    model = _BUILDERS[config.TASK](config)
    result: dict[str, Any] = {
        "model": config.MODEL.NAME,
        "task": config.TASK,
        "image_size": list(image_hw(config)),
        "parameters": count_parameters(model),
        "parameters_by_part": count_by_part(model),
    }
    if config.TASK != "tokenizer":
        counts = count_multiply_adds(model, *_inputs(config, model))
        result["multiply_adds"] = {name: counts.under(name) for name in CONVENTIONS}
    if batch and config.TASK != "tokenizer":
        result["batch"] = batch
        result["memory"] = {
            kind: {**vars(memory), "total": memory.total}
            for kind, memory in (
                ("float32", estimate_training_memory(model, config, batch, half=False)),
                ("amp", estimate_training_memory(model, config, batch, half=True)),
            )
        }
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report."""
    parser = verb_parser("report", f"{__doc__}\n\n{CONFIG_FLAGS}", EXAMPLES)
    parser.add_argument("--batch", type=int, help="images per device: estimate the memory of a training step")
    parser.add_argument("--json", action="store_true", help="for programs")
    given, config = with_config(parser, argv)
    paddle.set_device("cpu")
    result = report(config, given.batch)
    print(json.dumps(result, indent=2) if given.json else _text(result))


def _inputs(config: CfgNode, model: nn.Layer) -> tuple[paddle.Tensor, ...]:
    images = paddle.zeros([1, 3, *image_hw(config)])
    if config.TASK != "pretrain":
        return (images,)
    return images, paddle.ones([1, model.patch_embed.num_patches], dtype="bool")


def _text(result: dict[str, Any]) -> str:
    size = "x".join(str(side) for side in result["image_size"])
    lines = [f"{result['model']} ({result['task']}, {size} pixels)", f"parameters  {result['parameters']:,}"]
    lines += [f"  {name:16} {number:>13,}" for name, number in result["parameters_by_part"].items()]
    if "multiply_adds" in result:
        lines.append("multiply-adds of one image (one multiply-add is one; others print them as FLOPs)")
        lines += [
            f"  {name}  {number:>17,}  {CONVENTIONS[name]}"
            for name, number in result["multiply_adds"].items()
        ]
    if "memory" in result:
        lines.append(f"memory of a training step, {result['batch']} images on one device, estimated, GiB")
        kinds = result["memory"]
        lines.append(f"  {'':12} {'float32':>8} {'-amp':>8}")
        for name in kinds["float32"]:
            cells = " ".join(f"{kinds[kind][name] / _GIB:8.2f}" for kind in kinds)
            lines.append(f"  {name:12} {cells}  {_MEANINGS.get(name, '')}".rstrip())
        lines.append(
            "  not counted: decoding heads, tokenizer and teacher, workspaces, fragmentation, Paddle itself "
            "(about 0.5); python -m beit check measures a step"
        )
    return "\n".join(lines)
