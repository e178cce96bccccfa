"""Initial values of BEiT (recipes of unilm/beit/modeling_finetune.py and modeling_pretrain.py)."""

from __future__ import annotations

import math

import paddle
from paddle import nn

STD = 0.02


def truncated_normal(parameter: paddle.Tensor, *, bound: float = 2.0) -> None:
    """Fill with a normal of deviation 0.02 cut at ±`bound` (absolute).

    Fine-tuning cuts at ±2, which is a plain normal; pre-training cuts at ±0.02, one deviation.
    Source: timm's `trunc_normal_` defaults; unilm/beit/modeling_pretrain.py `trunc_normal_`.
    """
    nn.initializer.TruncatedNormal(std=STD, a=-bound, b=bound)(parameter)


def init_weights(layer: nn.Layer, *, bound: float = 2.0) -> None:
    """Linear weights truncated normal and biases 0, LayerNorm 1 and 0; for `Layer.apply`."""
    if isinstance(layer, nn.Linear):
        truncated_normal(layer.weight, bound=bound)
        if layer.bias is not None:
            nn.initializer.Constant(0.0)(layer.bias)
    elif isinstance(layer, nn.LayerNorm):
        nn.initializer.Constant(1.0)(layer.weight)
        nn.initializer.Constant(0.0)(layer.bias)


def init_convolution(conv: nn.Conv2D) -> None:
    """Weight and bias uniform in ±1 / sqrt(fan in): PyTorch's default, which the official fine-tuning code keeps."""
    fan_in = math.prod(conv.weight.shape[1:])
    uniform = nn.initializer.Uniform(-1.0 / math.sqrt(fan_in), 1.0 / math.sqrt(fan_in))
    uniform(conv.weight)
    uniform(conv.bias)


@paddle.no_grad()
def rescale_block(block: nn.Layer, depth_from_one: int) -> None:
    """Divide the output projections of a block by sqrt(2 k) for the k-th block from 1 (the official `fix_init`)."""
    for linear in (block.attn.proj, block.mlp.fc2):
        linear.weight.set_value(linear.weight / math.sqrt(2.0 * depth_from_one))


def make_head(embed_dim: int, num_classes: int, init_scale: float) -> nn.Linear:
    """Linear classifier whose initial weight and bias are scaled by `init_scale`."""
    head = nn.Linear(embed_dim, num_classes)
    init_weights(head)
    head.weight.set_value(head.weight * init_scale)
    head.bias.set_value(head.bias * init_scale)
    return head
