"""The methods that training scripts for timm call on a model, where they mean the same here."""

from __future__ import annotations

import paddle
from paddle import nn

from beit.layers.init import make_head

# B batch, D width, K classes


class TimmMethods(nn.Layer):
    """timm's names for parts of a classifier. Source: timm 1.0.31, models/beit.py, `Beit`.

    `forward_features` differs: timm's returns tokens, this package's the pooled features.
    """

    num_classes: int
    embed_dim: int
    init_scale: float
    recompute_blocks: bool
    class_names: object
    head: nn.Layer

    @property
    def num_features(self) -> int:
        """Number of channels of the pooled features, D."""
        return self.embed_dim

    def get_classifier(self) -> nn.Layer:
        """The head: features `[B, D]` to logits `[B, K]`; an identity in a model without one."""
        return self.head

    def forward_head(self, features: paddle.Tensor, pre_logits: bool = False) -> paddle.Tensor:
        """Logits `[B, K]` of what `forward_features` returns; with `pre_logits` the features that the head classifies.

        `forward_head(forward_features(images), pre_logits)` equals timm's. timm pools in this method.

        Args:
            features: pooled, `[B, D]`.
            pre_logits: return the features themselves.

        Raises:
            ValueError: the features are not pooled.
        """
        if features.ndim != 2:
            raise ValueError(
                f"forward_head takes pooled features [B, {self.embed_dim}], got {list(features.shape)}: pass the result of "
                "forward_features, or of pool for the tokens after the last block"
            )
        return features if pre_logits else self.head(features)

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the head by a new one with initial weights; the model then has no class names.

        Args:
            num_classes: K; 0 leaves out the head.
        """
        self.num_classes, self.class_names = num_classes, None
        self.head = make_head(self.embed_dim, num_classes, self.init_scale) if num_classes else nn.Identity()

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters without weight decay besides biases and vectors: class token, absolute positions.

        timm also exempts the relative position tables, which the official recipes decay (TRAIN.DECAY_REL_POS_BIAS).
        """
        return {name for name, _ in self.named_parameters() if name in ("cls_token", "pos_embed")}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the activations inside blocks in the backward pass: less memory, more time (TRAIN.RECOMPUTE).

        Args:
            enable: False switches it off.
        """
        self.recompute_blocks = enable
