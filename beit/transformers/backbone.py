"""transformers' `BeitBackbone`. Source: transformers 5.24, models/beit/modeling_beit.py."""

from __future__ import annotations

from typing import Any

import paddle

from beit.checkpoint.key_format import Rules
from beit.models.upernet import add_pyramid, check_pyramid_size, run_pyramid
from beit.transformers.configuration import BeitConfig
from beit.transformers.encoder import encoder_of_maps, maps_of, or_default, output_or_tuple
from beit.transformers.outputs import BackboneOutput
from beit.transformers.pretrained import BeitPreTrainedModel

# B batch, h, w patch grid, N tokens, D width


class BeitBackbone(BeitPreTrainedModel):
    """The encoder for detection and segmentation frameworks: a feature map per stage of `config.out_features`.

    Args:
        config: of the model; with `add_fpn` the four maps become a pyramid of strides 4, 8, 16 and 32 (for patches of 16).
        initialize: draw initial weights; False for a model that gets others.
    """

    canonical_names: Rules = (("beit.encoder.*", "*"), ("beit.mask_token", "mask_token"), ("*", "*"))

    def __init__(self, config: BeitConfig, *, initialize: bool = True) -> None:
        super().__init__(config)
        self.beit = encoder_of_maps(config)
        if config.add_fpn:
            add_pyramid(self, config.hidden_size)
        if initialize:
            self._init_weights()

    @property
    def out_features(self) -> list[str]:
        """Names of the stages whose maps are returned."""
        return self.config.out_features

    @property
    def channels(self) -> list[int]:
        """Number of channels of each map."""
        return [self.config.hidden_size] * len(self.out_features)

    def forward(
        self,
        pixel_values: paddle.Tensor,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> BackboneOutput | tuple[Any, ...]:
        """`feature_maps`: `[B, D, h, w]` of each stage; `[B, N, D]` without `config.reshape_hidden_states`.

        Args:
            pixel_values: as in `BeitModel.forward`; for `add_fpn` of two patches or more in height and width.
            output_attentions, output_hidden_states, interpolate_pos_encoding, return_dict: as in `BeitModel.forward`.
        """
        if self.config.add_fpn:
            check_pyramid_size(pixel_values, self.config.patch_size)
        stages = [i % len(self.config.stage_names) + 1 for i in self.config.out_indices]
        maps, outputs = maps_of(self.beit, pixel_values, stages, output_attentions)
        if not self.config.reshape_hidden_states:
            maps = [outputs.hidden_states[stage - 1] for stage in stages]
        with_states = or_default(output_hidden_states, self.config.output_hidden_states)
        found = BackboneOutput(
            feature_maps=tuple(run_pyramid(self, maps) if self.config.add_fpn else maps),
            hidden_states=outputs.hidden_states if with_states else None,
            attentions=outputs.attentions,
        )
        return output_or_tuple(found, return_dict, self.config)
