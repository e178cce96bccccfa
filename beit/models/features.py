"""Features of an encoder after chosen blocks: pooled vectors of a frozen one, or feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import paddle
from paddle import nn

from beit.beit import Beit

# B batch, D width, h, w patch grid


class FeatureName(NamedTuple):
    """Name of a feature: the number of its block, from 1, and its kind, "class", "patches" or "both"."""

    layer: int
    kind: str

    def __str__(self) -> str:
        return f"layer_{self.layer:02d}_{self.kind}"


class FrozenFeatures:
    """Float32 features of images after chosen blocks, computed in one forward pass without gradients.

    "class" is the class token `[B, D]`, "patches" the mean of the patch tokens `[B, D]`, and "both" the two
    concatenated, `[B, 2 D]`, as in the official linear evaluation.
    Source: unilm/beit/run_linear_eval.py; modeling_finetune.py, `get_intermediate_layers`.

    Args:
        backbone: the encoder; it is frozen and set to evaluation mode.
        layers: numbers of the blocks, from 1; empty for all.
        kinds: one or more of "class", "patches", "both".
        use_norm: apply the encoder's final norm to the tokens.

    Raises:
        ValueError: a layer does not exist, or `use_norm` is set and the encoder has no norm over tokens.
    """

    def __init__(
        self, backbone: Beit, *, layers: Sequence[int] = (), kinds: Sequence[str] = ("both",), use_norm: bool
    ) -> None:
        unknown = [layer for layer in layers if layer > backbone.depth]
        if unknown:
            raise ValueError(
                f"PROBE.LAYERS {unknown} do not exist; the model has blocks 1 to {backbone.depth}"
            )
        if use_norm and isinstance(backbone.norm, nn.Identity):
            raise ValueError(
                "PROBE.USE_NORM True needs an encoder with a norm over tokens: set MODEL.USE_MEAN_POOLING False"
            )
        self.backbone = backbone
        self.layers = tuple(layers) or tuple(range(1, backbone.depth + 1))
        self.kinds = tuple(kinds)
        self.use_norm = use_norm
        backbone.eval()
        for parameter in backbone.parameters():
            parameter.stop_gradient = True

    @property
    def widths(self) -> dict[FeatureName, int]:
        """The number of channels of each feature, in the order of the results."""
        width = self.backbone.embed_dim
        return {
            FeatureName(layer, kind): width * (2 if kind == "both" else 1)
            for layer in self.layers
            for kind in self.kinds
        }

    @paddle.no_grad()
    def __call__(self, images: paddle.Tensor) -> dict[FeatureName, paddle.Tensor]:
        """Features `[B, D]` or `[B, 2 D]` of normalized images `[B, 3, height, width]`."""
        blocks = [layer - 1 for layer in self.layers]
        states = self.backbone.forward_outputs(images, hidden_states=blocks, final=False).hidden_states
        features = {}
        for layer, tokens in zip(self.layers, states, strict=True):
            tokens = (self.backbone.norm(tokens) if self.use_norm else tokens).astype("float32")
            first, mean = tokens[:, 0], tokens[:, 1:].mean(1)  # [B, D]
            for kind in self.kinds:
                if kind == "both":
                    features[FeatureName(layer, kind)] = paddle.concat([first, mean], axis=-1)
                else:
                    features[FeatureName(layer, kind)] = first if kind == "class" else mean
        return features


class FeatureMaps(nn.Layer):
    """An encoder as the backbone of a detector or a segmentation model, for images whose sides are multiples of the patch size.

    It returns what timm's `create_model(..., features_only=True, out_indices=blocks)` returns. PaddleSeg reads
    `feat_channels`.

    Examples:
        >>> backbone = beit.FeatureMaps(beit.get_model("beit_base_patch16_224"), [3, 5, 7, 11])
        >>> [list(x.shape) for x in backbone(paddle.zeros([1, 3, 320, 480]))][-1]
        [1, 768, 20, 30]

    Args:
        model: the encoder; its weights are trained with the rest, and its head, if it has one, is not used.
        blocks: numbers of the blocks whose outputs are returned, from 0.

    Raises:
        ValueError: `blocks` is empty, or a block does not exist.
    """

    def __init__(self, model: Beit, blocks: Sequence[int]) -> None:
        super().__init__()
        if not blocks or not all(0 <= block < model.depth for block in blocks):
            raise ValueError(f"blocks {list(blocks)}: expected one or more of 0 to {model.depth - 1}")
        self.model = model
        self.blocks = tuple(blocks)

    @property
    def feat_channels(self) -> list[int]:
        """Number of channels of each map."""
        return [self.model.embed_dim] * len(self.blocks)

    @property
    def strides(self) -> list[int]:
        """Pixels of the image per pixel of each map, in height and width."""
        return [self.model.patch_embed.patch_size] * len(self.blocks)

    def forward(self, images: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps `[B, D, h, w]` of normalized images `[B, 3, height, width]`, in the order of `blocks`."""
        return self.model.feature_maps(images, self.blocks)
