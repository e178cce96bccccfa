"""What the encoder returns besides logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import paddle

# B batch, N tokens incl. class token, D width, H heads, h, w patch grid


@dataclass(frozen=True)
class BeitOutput:
    """Outputs of the encoder under transformers' names.

    `last_hidden_state` is `[B, N, D]` after the final norm where the model has one (class token pooling), and
    `pooler_output` `[B, D]` the features that are classified; both are None with `final=False`. `hidden_states`
    `[B, N, D]` and `attentions` `[B, H, N, N]` (rows sum to 1) are those of the requested blocks, in that order.
    """

    last_hidden_state: paddle.Tensor | None
    pooler_output: paddle.Tensor | None
    hidden_states: tuple[paddle.Tensor, ...] = ()
    attentions: tuple[paddle.Tensor, ...] = ()

    def __repr__(self) -> str:
        """The shapes, without the numbers."""
        return f"BeitOutput({', '.join(f'{name}={_shapes(value)}' for name, value in vars(self).items())})"


class BlockOutputs(NamedTuple):
    """Tokens `[B, N, D]` after the last block; by block number, outputs `[B, N, D]` and weights `[B, H, N, N]`."""

    last: paddle.Tensor
    hidden_states: dict[int, paddle.Tensor]
    attentions: dict[int, paddle.Tensor]


def feature_map(tokens: paddle.Tensor, grid: Sequence[int]) -> paddle.Tensor:
    """The patch tokens of `[B, N, D]` as a map `[B, D, h, w]`; `grid` is (h, w) in patches."""
    return tokens[:, 1:].transpose([0, 2, 1]).reshape([-1, tokens.shape[-1], *grid])


def _shapes(value: paddle.Tensor | tuple[paddle.Tensor, ...] | None) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shapes, value))})"
    return "None" if value is None else str(list(value.shape))
