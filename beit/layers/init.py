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


def init_uniform(layer: nn.Layer) -> None:
    """Weight and bias uniform in ±1 / sqrt(fan in), the default of PyTorch for Linear and convolutions.

    The official code keeps this default wherever it does not set a value: for convolutions in fine-tuning, and for the
    Linear layers of `cls_pt_layers` in pre-training.
    """
    # Linear [in, out]; convolutions [out, in, h, w], transposed ones [in, out, h, w].
    shape = layer.weight.shape
    bound = 1.0 / math.sqrt(shape[0] if isinstance(layer, nn.Linear) else math.prod(shape[1:]))
    for parameter in (layer.weight, layer.bias):
        if parameter is not None:
            nn.initializer.Uniform(-bound, bound)(parameter)


@paddle.no_grad()
def rescale_block(block: nn.Layer, depth_from_one: int) -> None:
    """Divide the output projections of a block by sqrt(2 k) for the k-th block from 1 (the official `fix_init`)."""
    for linear in (block.attn.proj, block.mlp.fc2):
        if has_values(linear.weight):
            linear.weight.set_value(linear.weight / math.sqrt(2.0 * depth_from_one))


def make_head(embed_dim: int, num_classes: int, init_scale: float) -> nn.Linear:
    """Linear classifier whose initial weight and bias are scaled by `init_scale`."""
    head = nn.Linear(embed_dim, num_classes)
    init_weights(head)
    for parameter in (head.weight, head.bias):
        if has_values(parameter):
            parameter.set_value(parameter * init_scale)
    return head


def has_values(parameter: paddle.Tensor) -> bool:
    """False inside of `paddle.LazyGuard`, where parameters have no memory until weights are loaded."""
    return bool(parameter._is_initialized())
