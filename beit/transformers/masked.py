"""transformers' `BeitForMaskedImageModeling`. Source: transformers 5.24, models/beit/modeling_beit.py."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from beit.checkpoint.key_format import Rules
from beit.layers.layer_norm import LayerNorm
from beit.models.mim import find_masked_indices
from beit.transformers.configuration import BeitConfig
from beit.transformers.encoder import BeitModel, output_or_tuple
from beit.transformers.losses import mean_cross_entropy
from beit.transformers.outputs import MaskedLMOutput
from beit.transformers.pretrained import BeitPreTrainedModel

# B batch, L patches, M masked patches of the whole batch, K visual tokens


class BeitForMaskedImageModeling(BeitPreTrainedModel):
    """The encoder with a head that predicts the visual token of each patch.

    Args:
        config: of the model; `use_mean_pooling` must be True, as in all published pre-training checkpoints.
        initialize: draw initial weights; False for a model that gets others.

    Raises:
        ValueError: `use_mean_pooling` is False, which would add a second norm before the head.
    """

    canonical_names: Rules = (
        ("beit.encoder.*", "*"),
        ("beit.mask_token", "mask_token"),
        ("layernorm.*", "norm.*"),
        ("*", "*"),
    )

    def __init__(self, config: BeitConfig, *, initialize: bool = True) -> None:
        super().__init__(config)
        if not config.use_mean_pooling:
            raise ValueError(
                "BeitForMaskedImageModeling with use_mean_pooling = False has two norms before its head, which no "
                "published checkpoint has: set use_mean_pooling = True"
            )
        self.beit = BeitModel(config, add_pooling_layer=False, initialize=False)
        self.layernorm = LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        if initialize:
            self._init_weights()

    def forward(
        self,
        pixel_values: paddle.Tensor,
        bool_masked_pos: paddle.Tensor | None = None,
        labels: paddle.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput | tuple[Any, ...]:
        """Logits `[B, L, K]` of all patches and, with labels, the mean cross entropy of the masked ones.

        Args:
            pixel_values, bool_masked_pos: as in `BeitModel.forward`.
            labels: visual tokens of the masked patches, int64 `[M]`, image by image and row-major in each; those of -100
                are ignored. With a tokenizer they are `tokenizer.encode(images)[bool_masked_pos]`.
            output_attentions, output_hidden_states, interpolate_pos_encoding, return_dict: as in `BeitModel.forward`.

        Raises:
            ValueError: labels without a mask; or as `BeitModel.forward`.
        """
        outputs = self.beit(
            pixel_values,
            bool_masked_pos,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.lm_head(self.layernorm(outputs.last_hidden_state)[:, 1:])
        loss = None
        if labels is not None:
            if bool_masked_pos is None:
                raise ValueError("labels are those of the masked patches: pass bool_masked_pos too")
            rows = find_masked_indices(bool_masked_pos.astype("bool"))
            loss = mean_cross_entropy(logits.flatten(0, 1).gather(rows), labels.flatten())
        found = MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )
        return output_or_tuple(found, return_dict, self.config)
