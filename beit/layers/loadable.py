"""Base of the networks, whose `set_state_dict` also takes training checkpoints and weights in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import paddle
from paddle import nn

from beit.checkpoint.adapter import has_factors, merge_factors
from beit.checkpoint.unwrap import EMA_KEYS, WEIGHT_KEYS
from beit.containers.arrays import widen_bfloat16

_FLOATS = (paddle.float16, paddle.bfloat16, paddle.float32, paddle.float64)


class Loadable(nn.Layer):
    """Base of the networks; see `set_state_dict`."""

    def set_state_dict(
        self, state_dict: Mapping[str, Any], use_structured_name: bool = True
    ) -> tuple[list[str], list[str]]:
        """Load a state dict with the names of this network; returns (missing, unexpected) keys.

        The state dict, of Paddle tensors or NumPy arrays, is flat or a training checkpoint, from which the moving average
        is loaded if there is one, as PaddleViT evaluates. Floating-point tensors of another type than the network's, such
        as float16 and bfloat16, are cast to it. Low-rank factors (LoRA) are merged into the weights of a plain model. Stored
        position indices are ignored: they follow from the grid. For other publishers' files, other image sizes and a strict
        check use `beit.load_pretrained`.
        """
        for key in (*EMA_KEYS, *WEIGHT_KEYS):
            if isinstance(state_dict.get(key), Mapping):
                state_dict = state_dict[key]
                break
        own = {
            name if use_structured_name else tensor.name: tensor for name, tensor in self.state_dict().items()
        }
        if has_factors(state_dict) and not has_factors(own):
            state_dict = merge_factors(state_dict)
        weights = {
            key: _cast(value, own[key].dtype) if key in own else value
            for key, value in state_dict.items()
            if not key.endswith("relative_position_index")
        }
        return super().set_state_dict(weights, use_structured_name)

    set_dict = set_state_dict
    load_dict = set_state_dict


def _cast(value: Any, dtype: paddle.dtype) -> Any:
    """A tensor or array of floating-point numbers as one of another floating-point type; anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype == np.uint16 and dtype in _FLOATS:
        value = widen_bfloat16(value)  # paddle.load(..., return_numpy=True) gives the bits of bfloat16
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind == "f"
        and value.dtype.name != str(dtype).rpartition(".")[2]
    ):
        value = paddle.to_tensor(value)
    if not isinstance(value, paddle.Tensor) or value.dtype == dtype:
        return value
    return value.astype(dtype) if value.dtype in _FLOATS and dtype in _FLOATS else value
