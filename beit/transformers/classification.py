"""transformers' `BeitForImageClassification`. Source: transformers 5.24, models/beit/modeling_beit.py."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn

from beit.checkpoint.key_format import Rules
from beit.transformers.configuration import BeitConfig
from beit.transformers.encoder import BeitModel, output_or_tuple
from beit.transformers.losses import classification_loss
from beit.transformers.outputs import ImageClassifierOutput
from beit.transformers.pretrained import BeitPreTrainedModel

# B batch, K classes


class BeitForImageClassification(BeitPreTrainedModel):
    """The encoder with a linear classifier on the pooled features.

    Args:
        config: of the model; `num_labels` 0 leaves out the classifier.
        initialize: draw initial weights; False for a model that gets others.

    Examples:
        >>> model = BeitForImageClassification.from_pretrained("folder")
        >>> model.config.id2label[model(**inputs).logits.argmax(-1).item()]
    """

    canonical_names: Rules = (
        ("beit.encoder.*", "*"),
        ("beit.mask_token", "mask_token"),
        ("classifier.*", "head.*"),
        ("*", "*"),
    )

    def __init__(self, config: BeitConfig, *, initialize: bool = True) -> None:
        super().__init__(config)
        self.beit = BeitModel(config, initialize=False)
        self.classifier = (
            nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()
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
    ) -> ImageClassifierOutput | tuple[Any, ...]:
        """Logits `[B, K]` and, with labels, the loss of `config.problem_type` (`losses.classification_loss`).

        Args:
            pixel_values: as in `BeitModel.forward`.
            labels: int64 `[B]`; float `[B, K]` for several classes at once; float `[B]` for a regression.
            output_attentions, output_hidden_states, interpolate_pos_encoding, return_dict: as in `BeitModel.forward`.
        """
        outputs = self.beit(
            pixel_values,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(outputs.pooler_output)
        found = ImageClassifierOutput(
            loss=None if labels is None else classification_loss(logits, labels, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        return output_or_tuple(found, return_dict, self.config)
