"""Exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import paddle
from paddle import Tensor


class Ema:
    """Exponential moving average of all floating-point parameters and persistable buffers of a model.

    Each `update` computes `average = decay * average + (1 - decay) * weight` in place, without a host sync. Integer
    buffers are not averaged. The average starts from the current weights, so create it after loading them.

    Source: unilm/beit `--model_ema` (timm `ModelEma`); published runs do not use it.

    Args:
        model: the plain Layer, not its DataParallel wrapper.
        decay: share of the average kept at each update, in [0, 1); the official default is 0.9999.

    Raises:
        ValueError: `decay` is out of range, or a weight is float16 or bfloat16, whose rounding would stop the average.
    """

    def __init__(self, model: paddle.nn.Layer, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay {decay} is not in [0, 1); 0.9999 is the usual value")
        self.model = model
        self.decay = decay
        self._swapped = False
        self._shadow: dict[str, Tensor] = {}
        for name, tensor in self._live().items():
            if tensor.dtype not in (paddle.float32, paddle.float64):
                raise ValueError(
                    f"EMA needs float32 weights; {name} is {tensor.dtype}. Use autocast, not a cast model"
                )
            self._shadow[name] = tensor.detach().clone()
        # A tensor, because a Python number would be copied to the device for every weight.
        self._weights_of_new = {
            dtype: paddle.to_tensor(1 - decay, dtype=dtype)
            for dtype in {t.dtype for t in self._shadow.values()}
        }

    @paddle.no_grad()
    def update(self) -> None:
        """Update the average with the current weights; call it once after each optimizer step.

        Raises:
            RuntimeError: inside `swapped()`.
        """
        self._refuse_while_swapped("update")
        live = self._live()
        for name, average in self._shadow.items():
            average.lerp_(live[name], self._weights_of_new[average.dtype])

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors by structured name; they are not copies, so the next `update` changes them.

        Raises:
            RuntimeError: inside `swapped()`, where `model.state_dict()` holds the average.
        """
        self._refuse_while_swapped("state_dict")
        return dict(self._shadow)

    def load_state_dict(self, state: Mapping[str, Tensor | np.ndarray]) -> None:
        """Copy a saved average into this one.

        Args:
            state: what `state_dict` returned, as tensors or arrays.

        Raises:
            ValueError: entries are missing, unexpected or of another shape; nothing is changed.
            RuntimeError: inside `swapped()`.
        """
        self._refuse_while_swapped("load_state_dict")
        missing = sorted(self._shadow.keys() - state.keys())
        extra = sorted(state.keys() - self._shadow.keys())
        if missing or extra:
            raise ValueError(
                f"The saved EMA does not fit the model: missing {missing[:3]}, left over {extra[:3]}"
            )
        for name, average in self._shadow.items():
            if list(state[name].shape) != list(average.shape):
                raise ValueError(
                    f"EMA entry {name} is {list(state[name].shape)}; expected {list(average.shape)}"
                )
        for name, average in self._shadow.items():
            paddle.assign(paddle.to_tensor(state[name], dtype=average.dtype), output=average)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Context manager in which the model has the averaged weights; its own weights are restored exactly.

        The two are exchanged tensor by tensor, so that only one tensor at a time needs a copy. A model that caches
        values computed from its weights in `eval()` must enter `eval()` inside the context and leave it before training
        continues.

        Raises:
            RuntimeError: inside another `swapped()`.
        """
        self._refuse_while_swapped("swapped")
        self._exchange()
        self._swapped = True
        try:
            yield
        finally:
            self._exchange()
            self._swapped = False

    @paddle.no_grad()
    def _exchange(self) -> None:
        live = self._live()
        for name, average in self._shadow.items():
            kept = live[name].clone()
            paddle.assign(average, output=live[name])
            paddle.assign(kept, output=average)

    def _live(self) -> dict[str, Tensor]:
        """The model's floating-point tensors, shared ones once; not cached, because a Layer may replace a buffer."""
        unique = {id(tensor): (name, tensor) for name, tensor in reversed(self.model.state_dict().items())}
        return {name: tensor for name, tensor in reversed(unique.values()) if tensor.is_floating_point()}

    def _refuse_while_swapped(self, call: str) -> None:
        if self._swapped:
            raise RuntimeError(f"Ema.{call} inside Ema.swapped(): the model carries the average there")
