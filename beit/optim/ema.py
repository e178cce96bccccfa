"""Exponential moving average of a model's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import paddle
from paddle import Tensor


class Ema:
    """Average of all floating parameters and persistable floating buffers of a model.

    Each `update` does `average = decay * average + (1 - decay) * weight` in place, without a host sync.
    Integer buffers are not averaged. The average starts from the weights the model has now: build it after
    loading them.

    Source: unilm/beit `--model_ema` (timm `ModelEma`); published runs do not use it.

    Args:
        model: the plain Layer, not its DataParallel wrapper.
        decay: share of the average kept at each update, in [0, 1); official default 0.9999.

    Raises:
        ValueError: when `decay` is out of range, or a weight is float16 or bfloat16 (averages stand still).
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
        # One tensor for all updates: a Python number would be copied to the device for every weight.
        self._weights_of_new = {
            dtype: paddle.to_tensor(1 - decay, dtype=dtype)
            for dtype in {t.dtype for t in self._shadow.values()}
        }

    @paddle.no_grad()
    def update(self) -> None:
        """Moves the average towards the present weights; call it once after each optimizer step.

        Raises:
            RuntimeError: inside `swapped()`.
        """
        self._refuse_while_swapped("update")
        live = self._live()
        for name, average in self._shadow.items():
            average.lerp_(live[name], self._weights_of_new[average.dtype])

    def state_dict(self) -> dict[str, Tensor]:
        """The average by structured name: the tensors themselves, which the next `update` changes.

        Raises:
            RuntimeError: inside `swapped()`; there `model.state_dict()` holds the average.
        """
        self._refuse_while_swapped("state_dict")
        return dict(self._shadow)

    def load_state_dict(self, state: Mapping[str, Tensor | np.ndarray]) -> None:
        """Copies a saved average into this one.

        Raises:
            ValueError: when entries are missing, left over or of another shape; nothing is changed then.
            RuntimeError: inside `swapped()`.
        """
        self._refuse_while_swapped("load_state_dict")
        missing, extra = (
            sorted(self._shadow.keys() - state.keys()),
            sorted(state.keys() - self._shadow.keys()),
        )
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
        """Within the block the model carries the average; afterwards its own weights again, bit for bit.

        The two are exchanged tensor by tensor, so at most one tensor exists three times. A model that caches
        what it computes from weights in `eval()` must be put in `eval()` inside the block and out of it
        before training goes on.

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
        """Floating tensors of the model, tied ones once; looked up anew, as a Layer may replace a buffer."""
        unique = {id(tensor): (name, tensor) for name, tensor in reversed(self.model.state_dict().items())}
        return {name: tensor for name, tensor in reversed(unique.values()) if tensor.is_floating_point()}

    def _refuse_while_swapped(self, call: str) -> None:
        if self._swapped:
            raise RuntimeError(f"Ema.{call} inside Ema.swapped(): the model carries the average there")
