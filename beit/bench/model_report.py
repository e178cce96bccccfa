"""Parameters, multiply-adds and memory of the network of a config."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from yacs.config import CfgNode

from beit.bench.counting import (
    CONVENTIONS,
    count_by_part,
    count_multiply_adds,
    count_parameters,
    estimate_training_memory,
)
from beit.bench.mmpretrain_counts import mmpretrain_counts
from beit.config import image_hw
from beit.models.build import build_model


def model_report(config: CfgNode, batch: int | None = None) -> dict[str, Any]:
    """Numbers of the network of a config, on a device that was set before.

    The keys are `model`, `task`, `image_size` (height and width), `parameters`, `parameters_by_part`, `multiply_adds`
    of one image by convention (`counting.CONVENTIONS`; not for tokenizers), `mmpretrain` for classifiers and
    pre-training (`mmpretrain_counts`), and with a batch size `batch` and `memory`: the bytes of a training step by what
    they hold, in float32 and with -amp.

    Args:
        config: DATA.IMAGE_SIZE is the size at which operations are counted.
        batch: images per device; None for no estimate of the memory.
    """
    model = build_model(config)
    result: dict[str, Any] = {
        "model": config.MODEL.NAME,
        "task": config.TASK,
        "image_size": list(image_hw(config)),
        "parameters": count_parameters(model),
        "parameters_by_part": count_by_part(model),
    }
    if config.TASK != "tokenizer":
        operations = count_multiply_adds(model, *_inputs(config, model))
        result["multiply_adds"] = {name: operations.under(name) for name in CONVENTIONS}
    counts = mmpretrain_counts(config, model)
    if counts is not None:
        result["mmpretrain"] = counts._asdict()
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


def _inputs(config: CfgNode, model: nn.Layer) -> tuple[paddle.Tensor, ...]:
    images = paddle.zeros([1, 3, *image_hw(config)])
    if config.TASK != "pretrain":
        return (images,)
    return images, paddle.ones([1, model.patch_embed.num_patches], dtype="bool")
