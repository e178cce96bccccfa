"""transformers' `BeitForSemanticSegmentation` over this package's UPerNet heads.

Source: transformers 5.24, models/beit/modeling_beit.py. Deviation: the running variance of BatchNorm is the
biased one, as everywhere in Paddle.
"""

from __future__ import annotations

from typing import Any

import paddle

from beit.checkpoint.key_format import Rules
from beit.models.segmentation_heads import FcnHead, UperHead
from beit.models.upernet import AUXILIARY_LEVEL, add_pyramid, check_pyramid_size, run_pyramid
from beit.transformers.configuration import BeitConfig
from beit.transformers.encoder import encoder_of_maps, maps_of, or_default, output_or_tuple
from beit.transformers.losses import segmentation_loss
from beit.transformers.outputs import SemanticSegmenterOutput
from beit.transformers.pretrained import BeitPreTrainedModel

# B batch, h, w patch grid, H, W pixels, K classes


class BeitForSemanticSegmentation(BeitPreTrainedModel):
    """The encoder with a feature pyramid, UPerHead and an auxiliary head.

    Args:
        config: of the model, with four `out_indices`. As in transformers, index k is the output of layer k - 1 (layers
            from 1), although the published heads were trained on the outputs of layers k + 1.
        initialize: draw initial weights; False for a model that gets others.

    Raises:
        ValueError: not four `out_indices`, or `auxiliary_concat_input`, or no auxiliary convolution.
    """

    canonical_names: Rules = (
        ("beit.encoder.*", "backbone.*"),
        ("beit.mask_token", "backbone.mask_token"),
        ("fpn1.*", "backbone.fpn1.*"),
        ("fpn2.*", "backbone.fpn2.*"),
        ("*", "*"),
    )

    def __init__(self, config: BeitConfig, *, initialize: bool = True) -> None:
        super().__init__(config)
        if len(config.out_indices) != 4:
            raise ValueError(
                f"out_indices = {config.out_indices}; semantic segmentation takes four, such as [3, 5, 7, 11] of 12 layers"
            )
        if config.use_auxiliary_head and (config.auxiliary_concat_input or config.auxiliary_num_convs < 1):
            raise ValueError(
                "the auxiliary head has one convolution or more and does not concatenate its input: set "
                "auxiliary_concat_input = False and auxiliary_num_convs >= 1"
            )
        self.beit = encoder_of_maps(config)
        add_pyramid(self, config.hidden_size)
        self.decode_head = UperHead(
            config.hidden_size,
            channels=config.hidden_size,
            num_classes=config.num_labels,
            pool_scales=config.pool_scales,
            dropout=0.0,
        )
        self.auxiliary_head = None
        if config.use_auxiliary_head:
            self.auxiliary_head = FcnHead(
                config.hidden_size,
                channels=config.auxiliary_channels,
                num_classes=config.num_labels,
                num_convs=config.auxiliary_num_convs,
                dropout=0.0,
            )
        if initialize:
            self._init_weights()

    def forward(
        self,
        pixel_values: paddle.Tensor,
        labels: paddle.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> SemanticSegmenterOutput | tuple[Any, ...]:
        """Logits `[B, K, 4h, 4w]` and, with labels, the loss of both heads (`losses.segmentation_loss`).

        Args:
            pixel_values: as in `BeitModel.forward`, of two patches or more in height and width.
            labels: int `[B, H, W]` in 0 to K - 1 or `config.semantic_loss_ignore_index`.
            output_attentions, output_hidden_states, interpolate_pos_encoding, return_dict: as in `BeitModel.forward`.

        Raises:
            ValueError: labels for a single class, or images that are too small.
        """
        if labels is not None and self.config.num_labels == 1:
            raise ValueError(
                "the loss needs num_labels > 1: a single class has nothing to be told apart from"
            )
        check_pyramid_size(pixel_values, self.config.patch_size)
        maps, outputs = maps_of(self.beit, pixel_values, self.config.out_indices, output_attentions)
        pyramid = run_pyramid(self, maps)
        logits = self.decode_head(pyramid)
        loss = None
        if labels is not None:
            auxiliary = None if self.auxiliary_head is None else self.auxiliary_head(pyramid[AUXILIARY_LEVEL])
            loss = segmentation_loss(logits, auxiliary, labels, self.config)
        with_states = or_default(output_hidden_states, self.config.output_hidden_states)
        found = SemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states if with_states else None,
            attentions=outputs.attentions,
        )
        return output_or_tuple(found, return_dict, self.config)
