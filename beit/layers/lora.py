"""Low-rank adaptation (LoRA) of a trained encoder: frozen Linear layers get trainable factors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.checkpoint.adapter import merge_factors

# I inputs and O outputs of a Linear layer, r rank

TARGETS = ("qkv", "proj", "fc1", "fc2")
"""Linear layers of a block that can be adapted: of the attention, and of the MLP."""
_TRAINED = ("head.", "fc_norm.", "norm.")


class LoraLinear(nn.Layer):
    """`x W + b + (alpha / r) x A B` of a Linear layer with frozen W; A `[I, r]` is random, B `[r, O]` starts as zeros.

    Weight and bias are those of the layer and keep their names.
    Source: arXiv 2106.09685; A is drawn as by the library PEFT, uniform in ±1 / sqrt(I).

    Args:
        linear: the layer.
        rank: r.
        alpha: factor of the update, before the division by r.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self._linear = (linear,)  # in a tuple, so that Paddle does not register it as a sublayer
        self.weight, self.bias = linear.weight, linear.bias
        inputs, outputs = linear.weight.shape
        bound = 1 / math.sqrt(inputs)
        uniform, zeros = nn.initializer.Uniform(-bound, bound), nn.initializer.Constant(0.0)
        self.lora_a = self.create_parameter([inputs, rank], default_initializer=uniform)
        self.lora_b = self.create_parameter([rank, outputs], default_initializer=zeros)
        self.register_buffer("lora_scale", paddle.to_tensor(alpha / rank, dtype="float32"))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[..., I]` to `[..., O]`."""
        update = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.lora_scale.astype(update.dtype) * update

    def extra_repr(self) -> str:
        """Sizes for `repr`."""
        (inputs, rank), outputs = self.lora_a.shape, self.lora_b.shape[1]
        return f"in_features={inputs}, out_features={outputs}, rank={rank}"

    @paddle.no_grad()
    def merged(self) -> nn.Linear:
        """The Linear layer, with the update added to its weight."""
        state = {"." + name: tensor for name, tensor in self.state_dict().items()}
        self.weight.set_value(merge_factors(state)[".weight"])
        return self._linear[0]


def add_lora(
    model: nn.Layer,
    *,
    rank: int = 8,
    alpha: float = 8.0,
    targets: Sequence[str] = ("qkv",),
    blocks: Sequence[int] = (),
) -> None:
    """Adapt a classifier in place: train low-rank factors, the head and the norm before it; freeze all else.

    Its results stay the same until the first optimizer step.

    Args:
        model: a `Beit` with its weights.
        rank: r of the factors.
        alpha: the update is scaled by alpha / rank.
        targets: which Linear layers of a block, of "qkv", "proj", "fc1", "fc2".
        blocks: which blocks, counted from 1; empty for all.

    Raises:
        ValueError: a rank below 1, an alpha that is not above 0, an unknown layer or block, or a model that has LoRA already.

    Examples:
        beit.add_lora(model, rank=8, targets=("qkv", "proj"))
    """
    if rank < 1:
        raise ValueError(f"LoRA: rank {rank}, expected 1 or more")
    if not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"LoRA: alpha {alpha}, expected a number above 0")
    unknown = sorted(set(targets) - set(TARGETS))
    if unknown or not targets:
        raise ValueError(f"LoRA: layers {unknown or list(targets)}, expected some of {', '.join(TARGETS)}")
    depth = len(model.blocks)
    if any(not 1 <= number <= depth for number in blocks):
        raise ValueError(f"LoRA: blocks {list(blocks)}, the model has blocks 1 to {depth}")
    if any(isinstance(layer, LoraLinear) for layer in model.sublayers()):
        raise ValueError("LoRA: the model has factors already; call beit.merge_lora first")
    for name, parameter in model.named_parameters():
        parameter.stop_gradient = not name.startswith(_TRAINED)
    for number, block in enumerate(model.blocks, start=1):
        if blocks and number not in blocks:
            continue
        for parent, name in _places(block):
            if name in targets:
                setattr(parent, name, LoraLinear(getattr(parent, name), rank, alpha))


def merge_lora(model: nn.Layer) -> None:
    """Turn an adapted model into a plain one in place: the updates are added to the weights, which stay frozen.

    Args:
        model: of `add_lora`.

    Examples:
        beit.merge_lora(model)
    """
    for block in model.blocks:
        for parent, name in _places(block):
            layer = getattr(parent, name)
            if isinstance(layer, LoraLinear):
                setattr(parent, name, layer.merged())


def _places(block: nn.Layer) -> Iterator[tuple[nn.Layer, str]]:
    """The layer that contains each Linear layer of a block, and the name of its attribute."""
    yield from ((block.attn if hasattr(block.attn, name) else block.mlp, name) for name in TARGETS)
