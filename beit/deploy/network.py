"""The network that is exported: normalization, model, and the last step that makes the output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.beit import Beit
from beit.data.batch_transforms import normalize
from beit.models.segmentation_heads import resize_bilinear
from beit.streams import STDERR, without_line

# B batch, K classes, D width, k best classes, H, W pixels

Outputs = tuple[paddle.Tensor, ...]


class ExportedNetwork(nn.Layer):
    """A model in evaluation mode, from images to one of the outputs of `OUTPUTS`.

    Args:
        model: maps normalized images to logits `[B, K]`, or for segmentation `[B, K, h, w]`; for the outputs "features"
            and "codes" it has the methods `forward_features` and `code_scores`.
        output: a key of `OUTPUTS`.
        size: (height, width) of the images, pixels.
        mean: of the channels, for pixels in [0, 1]; None if the images are normalized outside of the network.
        std: of the channels, as `mean`.
        topk: k of the output "topk".
        independent: probabilities are sigmoids of the logits, not their softmax.

    Raises:
        ValueError: unknown output.
    """

    def __init__(
        self,
        model: nn.Layer,
        output: str,
        *,
        size: tuple[int, int],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        topk: int = 5,
        independent: bool = False,
    ) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"unknown output {output!r}; choose one of {', '.join(OUTPUTS)}")
        self.model = model
        self.output = output
        self.finish = _FINISH[output]
        self.size, self.mean, self.std, self.topk = size, mean, std, topk
        self.independent = independent
        # Stated, because Paddle 3.0 and 3.1 lose the defaults of keyword-only arguments in calls that they trace.
        self.arguments = {"any_size": False} if isinstance(model, Beit) else {}
        self.eval()

    def forward(self, images: paddle.Tensor) -> Outputs:
        """The outputs of `images` `[B, 3, height, width]`: uint8, or normalized float32 if `mean` is None."""
        if self.mean is not None and self.std is not None:
            images = normalize(images, self.mean, self.std)
        # Given a name, because tracing does not translate the model in `forward_of(...)(images)`.
        run = forward_of(self.model, self.output)
        return self.finish(run(images, **self.arguments), self)


def forward_of(model: nn.Layer, output: str) -> Callable[..., paddle.Tensor]:
    """The function of a model, from normalized images, whose result an output of `OUTPUTS` is made of."""
    return getattr(model, _METHODS[output]) if output in _METHODS else model


class FixedPool(nn.Layer):
    """Adaptive average pooling for maps of known size, as two matrix products.

    ONNX has no adaptive pooling, and windows of equal size differ from it whenever the number of bins does not divide the
    size of the map.

    Args:
        bins: height and width of the result.
    """

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """`[B, D, h, w]` to `[B, D, bins, bins]`."""
        rows, columns = (paddle.to_tensor(_pooling_matrix(int(side), self.bins)) for side in x.shape[2:])
        return paddle.matmul(paddle.matmul(rows, x), columns, transpose_y=True)


def _pooling_matrix(length: int, bins: int) -> np.ndarray:
    """Weights of adaptive average pooling `[bins, length]`: bin k averages floor(k l / n) to ceil((k+1) l / n)."""
    matrix = np.zeros((bins, length), np.float32)
    for k in range(bins):
        start, end = k * length // bins, -(-(k + 1) * length // bins)
        matrix[k, start:end] = 1 / (end - start)
    return matrix


@contextmanager
def tracing(network: nn.Layer) -> Iterator[None]:
    """Trace a network inside of the `with` block; at its end the layers have their own `forward` again.

    Tracing stores a translated `forward` in each layer. That of Paddle 3.0 cannot be called outside of a trace. Paddle
    3.3 says at the first operator that it ignores the argument `out`, which nobody gave.
    """
    try:
        with without_line(STDERR, "not support input out tensor"):
            yield
    finally:
        for layer in network.sublayers(include_self=True):
            vars(layer).pop("forward", None)


@contextmanager
def fixed_pools(model: nn.Layer) -> Iterator[None]:
    """Replace the adaptive pools of a model by `FixedPool` inside the `with` block."""
    pools = [
        (parent, name, child)
        for parent in model.sublayers(include_self=True)
        for name, child in parent.named_children()
        if isinstance(child, nn.AdaptiveAvgPool2D)
    ]
    for parent, name, child in pools:
        parent.add_sublayer(name, FixedPool(child._output_size))
    try:
        yield
    finally:
        for parent, name, child in pools:
            parent.add_sublayer(name, child)


def probabilities(logits: paddle.Tensor, *, independent: bool) -> paddle.Tensor:
    """Probabilities `[B, K]` of logits of that shape: their softmax, or for independent classes their sigmoids."""
    return F.sigmoid(logits) if independent else F.softmax(logits, axis=-1)


def _probabilities(logits: paddle.Tensor, network: ExportedNetwork) -> Outputs:
    return (probabilities(logits, independent=network.independent),)


def _best(logits: paddle.Tensor, network: ExportedNetwork) -> Outputs:
    scores, classes = paddle.topk(
        probabilities(logits, independent=network.independent), network.topk, axis=-1
    )
    return scores, classes.astype("int32")


def _class_map(logits: paddle.Tensor, network: ExportedNetwork) -> Outputs:
    return _largest(resize_bilinear(logits, network.size), network)


def _largest(scores: paddle.Tensor, _: ExportedNetwork) -> Outputs:
    return (scores.argmax(axis=1).astype("int32"),)


OUTPUTS: dict[str, tuple[str, ...]] = {
    "logits": ("logits",),
    "probabilities": ("probabilities",),
    "topk": ("scores", "classes"),
    "features": ("features",),
    "class_map": ("class_map",),
    "codes": ("codes",),
}
"""Outputs of a graph, and the names of their results.

logits: `[B, K]`, for segmentation `[B, K, H/4, W/4]`; probabilities: the same shape; topk: the k largest
probabilities in descending order, `[B, k]`, and their classes, int32; features: `[B, D]`; class_map: the class of each
pixel, int32 `[B, H, W]`; codes: the token ids of a tokenizer, int32 `[B, h, w]`.
"""

_METHODS = {"features": "forward_features", "codes": "code_scores"}
"""Output -> method of the model that computes it; the others are computed from the logits."""

_FINISH: dict[str, Callable[[paddle.Tensor, ExportedNetwork], Outputs]] = {
    "logits": lambda logits, _: (logits,),
    "probabilities": _probabilities,
    "topk": _best,
    "features": lambda features, _: (features,),
    "class_map": _class_map,
    "codes": _largest,
}
