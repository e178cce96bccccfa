"""Parameters, multiply-adds under four counting conventions, and an estimate of the memory of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import paddle
from paddle import nn

from beit.layers.attention import Attention

# N tokens, D width, H heads, d channels per head

_LAYER_NORM = 5  # operations per element, fvcore's rule
_HALF, _SINGLE = 2, 4  # bytes

CONVENTIONS = {
    "A": "everything that multiplies matrices: convolutions, qkv, attention, projections, MLPs, head",
    "B": "A without the classifier head, plus 5 per element of LayerNorm (mmpretrain, timm: 17.58 G for base 224)",
    "C": "B without the two products inside attention (timm's tables of PyTorch 2.1)",
    "D": "Linear and Conv2D layers alone, without qkv and attention (PaddleViT, PASSL: 12.7 G)",
}
"""What each convention counts; one multiply-add counts as 1. Source: tables of the publishers, recomputed."""


@dataclass
class MultiplyAdds:
    """Multiply-adds of one forward pass by kind of operation."""

    linear: int = 0
    convolution: int = 0
    qkv: int = 0
    attention: int = 0
    head: int = 0
    layer_norm_elements: int = 0

    def under(self, convention: str) -> int:
        """The count under one of `CONVENTIONS`.

        Raises:
            KeyError: there is no such convention.
        """
        layers = self.linear + self.convolution
        products = layers + self.qkv + self.attention + self.head
        normed = layers + self.qkv + self.attention + _LAYER_NORM * self.layer_norm_elements
        return {"A": products, "B": normed, "C": normed - self.attention, "D": layers + self.head}[convention]


def count_parameters(model: nn.Layer) -> int:
    """Number of values in all parameters."""
    return sum(int(np.prod(parameter.shape)) for parameter in model.parameters())


def count_by_part(model: nn.Layer) -> dict[str, int]:
    """Number of parameters by direct sublayer, the largest first."""
    parts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        parts[part] = parts.get(part, 0) + int(np.prod(parameter.shape))
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


@paddle.no_grad()
def count_multiply_adds(model: nn.Layer, *inputs: paddle.Tensor) -> MultiplyAdds:
    """Multiply-adds of `model(*inputs)`, counted by forward hooks in evaluation mode."""
    counts = MultiplyAdds()
    hooks = []
    for name, layer in model.named_sublayers():
        count = next((count for kind, count in _COUNTERS.items() if isinstance(layer, kind)), None)
        if count is not None:
            kind = {"head": "head", "qkv": "qkv"}.get(name.rpartition(".")[2])
            hooks.append(layer.register_forward_post_hook(_Counting(counts, count, kind)))
    was_training = model.training
    model.eval()
    try:
        model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        if was_training:
            model.train()
    return counts


def custom_ops(model: nn.Layer) -> dict[type, Callable[..., None]]:
    """The argument `custom_ops` with which `paddle.flops` also counts the two products inside attention.

    `paddle.flops` asks only layers without sublayers for their operations. `Attention` has sublayers, so that its products
    are counted at its `qkv` layer.

    Examples:
        >>> paddle.flops(model, [1, 3, 224, 224], custom_ops=custom_ops(model))

    Args:
        model: whose operations are counted.
    """
    attention_of = {id(layer.qkv): layer for layer in model.sublayers() if isinstance(layer, Attention)}

    def count(layer: Any, inputs: Any, output: paddle.Tensor) -> None:
        operations = _linear(layer, inputs[0], output)["linear"]
        if id(layer) in attention_of:
            operations += _attention(attention_of[id(layer)], inputs[0], output)["attention"]
        layer.total_ops += operations

    return {nn.Linear: count}


class _Counting:
    """A forward hook that adds the operations of a layer."""

    def __init__(self, counts: MultiplyAdds, count: Any, kind: str | None) -> None:
        self._counts, self._count, self._kind = counts, count, kind

    def __call__(self, layer: nn.Layer, inputs: Any, output: Any) -> None:
        for name, number in self._count(layer, inputs[0], output).items():
            name = self._kind or name
            setattr(self._counts, name, getattr(self._counts, name) + number)


def _linear(layer: Any, x: paddle.Tensor, output: paddle.Tensor) -> dict[str, int]:
    return {"linear": output.size * layer.weight.shape[0]}


def _convolution(layer: Any, x: paddle.Tensor, output: paddle.Tensor) -> dict[str, int]:
    return {"convolution": output.size * int(np.prod(layer.weight.shape[1:]))}


def _transposed(layer: Any, x: paddle.Tensor, output: paddle.Tensor) -> dict[str, int]:
    return {"convolution": x.size * int(np.prod(layer.weight.shape[1:]))}


def _layer_norm(layer: Any, x: paddle.Tensor, output: paddle.Tensor) -> dict[str, int]:
    return {"layer_norm_elements": output.size}


def _attention(layer: Attention, x: paddle.Tensor, output: paddle.Tensor) -> dict[str, int]:
    """The two products inside attention; its linear layers have hooks of their own."""
    batch, tokens, _ = x.shape
    return {"attention": 2 * batch * tokens * tokens * layer.num_heads * layer.head_dim}


_COUNTERS: dict[type, Any] = {
    nn.Linear: _linear,
    nn.Conv2D: _convolution,
    nn.Conv2DTranspose: _transposed,
    nn.LayerNorm: _layer_norm,
    Attention: _attention,
}


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on the device by use. Evaluation needs the weights and the activations of about two blocks."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        """Sum of all uses."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate_training_memory(model: nn.Layer, config: Any, batch: int, *, half: bool) -> Memory:
    """Estimated peak memory of a training step of the encoder on one device.

    Included: float32 weights, gradients, AdamW's two moments, the moving average if there is one, and the activations
    that the blocks keep for the backward pass (with TRAIN.RECOMPUTE those of one block, and the inputs of all). Not
    included: heads of other tasks, workspaces of the matrix library, fragmentation, the framework (about half a GiB),
    tokenizer and teacher.

    Args:
        model: the model; its encoder is `model.backbone` or the model itself.
        config: its frozen config.
        batch: images per step on this device.
        half: mixed precision (-amp): activations take 2 bytes, attention weights 4 and 2. Computed, not measured:
            Paddle's autocast has no effect on a CPU.
    """
    weights = _SINGLE * count_parameters(model)
    encoder = getattr(model, "backbone", model)
    tokens = encoder.patch_embed.num_patches + 1
    keys = config.MODEL
    stream = batch * tokens * keys.EMBED_DIM
    square = batch * keys.NUM_HEADS * tokens * tokens
    value = _HALF if half else _SINGLE
    # Kept tensors of width D: inputs and outputs of both norms, q, k, v, the input of the projection, both branches
    # before LayerScale (with the output of the block 11), and the input and output of the MLP's activation function.
    # Kept of [N, N]: the attention weights. Paddle 3.3's allocator reports the same numbers in float32.
    # Drop path also keeps both branches after LayerScale.
    kept = 11 + 2 * keys.MLP_RATIO + (2 if keys.DROPPATH else 0)
    per_block = value * int(stream * kept) + (_SINGLE + _HALF if half else _SINGLE) * square
    # Backward pass of one block: gradients inside the MLP, and of the attention weights and logits.
    passing = value * int(stream * 2 * keys.MLP_RATIO) + 2 * _SINGLE * square
    blocks = (
        per_block + encoder.depth * value * stream if config.TRAIN.RECOMPUTE else encoder.depth * per_block
    )
    activations = blocks + passing
    average = weights if config.TRAIN.MODEL_EMA else 0
    return Memory(weights, weights, 2 * weights, average, activations)
