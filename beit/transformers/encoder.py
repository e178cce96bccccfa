"""transformers' `BeitModel` over this package's encoder, and what the models with heads share.

Source: transformers 5.24, models/beit/modeling_beit.py. Deviation: for images that are not square the position
tables are read as height x width; transformers takes them for width x height.
"""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional as F

from beit.beit import Beit
from beit.layers.block import Activation
from beit.layers.outputs import feature_map
from beit.layers.position_resizer import find_resizer
from beit.models.mim import mask_patches
from beit.preprocessing import height_width
from beit.transformers.configuration import BeitConfig
from beit.transformers.outputs import BeitModelOutputWithPooling, ModelOutput
from beit.transformers.pretrained import BeitPreTrainedModel

# B batch, L patches = h * w, N = L + 1 tokens (class token first), D width, H heads, K classes or visual tokens

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate=True),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate=True),
    "relu": F.relu,
    "selu": F.selu,
    "silu": F.silu,
}


class BeitModel(BeitPreTrainedModel):
    """The encoder: images to tokens and pooled features.

    Args:
        config: of the model.
        add_pooling_layer: compute `pooler_output`.
        initialize: draw initial weights; False for a model that gets others.

    Examples:
        >>> outputs = BeitModel.from_pretrained("folder")(pixel_values, output_hidden_states=True)
        >>> outputs.last_hidden_state.shape, len(outputs.hidden_states)
    """

    def __init__(
        self, config: BeitConfig, add_pooling_layer: bool = True, *, initialize: bool = True
    ) -> None:
        super().__init__(config)
        self.encoder = _build_encoder(config)
        self.add_pooling_layer = add_pooling_layer
        if not add_pooling_layer:
            self.encoder.fc_norm = None
        self.mask_token = self.create_parameter([1, 1, config.hidden_size]) if config.use_mask_token else None
        if initialize:
            self._init_weights()

    def forward(
        self,
        pixel_values: paddle.Tensor,
        bool_masked_pos: paddle.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        interpolate_pos_encoding: bool = False,
        return_dict: bool | None = None,
    ) -> BeitModelOutputWithPooling | tuple[Any, ...]:
        """Tokens, pooled features and, on request, hidden states and attention weights.

        Args:
            pixel_values: normalized images `[B, 3, height, width]`. For another size than the model's, positions are
                resized by transformers' rule: tables bilinearly, absolute positions bicubically. Rows and columns
                that fill no patch are ignored.
            bool_masked_pos: bool (or 0 and 1) `[B, L]`: patches that the mask token replaces.
            output_attentions: return `attentions`, `[B, H, N, N]` of each layer; None for `config.output_attentions`.
            output_hidden_states: return `hidden_states`, `[B, N, D]` before the first layer and after each one; None
                for `config.output_hidden_states`.
            interpolate_pos_encoding: changes nothing: positions are always resized, as in transformers 5.
            return_dict: False returns a tuple; None for `config.return_dict`.

        Raises:
            ValueError: another number of channels, images without a whole patch, a mask of another shape, or a mask without
                `use_mask_token`.
        """
        config, encoder = self.config, self.encoder
        if pixel_values.shape[1] != config.num_channels:
            raise ValueError(
                f"pixel_values have {pixel_values.shape[1]} channels, the model num_channels = {config.num_channels}"
            )
        images = _whole_patches(pixel_values, config.patch_size)
        resizer = find_resizer(encoder.patch_embed, images, "bilinear")
        x = encoder.patch_embed(images, any_size=True)  # [B, L, D]
        if bool_masked_pos is not None:
            if self.mask_token is None:
                raise ValueError("bool_masked_pos needs a mask token: set use_mask_token=True in the config")
            x = mask_patches(x, bool_masked_pos.astype("bool"), self.mask_token)
        x = encoder.add_class_token(x, resizer)
        layers = range(config.num_hidden_layers)
        with_states = or_default(output_hidden_states, config.output_hidden_states)
        with_weights = or_default(output_attentions, config.output_attentions)
        outputs = encoder.run_blocks(
            x,
            hidden_states=layers if with_states else (),
            attentions=layers if with_weights else (),
            resizer=resizer,
        )
        found = BeitModelOutputWithPooling(
            last_hidden_state=encoder.norm(outputs.last),
            pooler_output=encoder.pool(outputs.last) if self.add_pooling_layer else None,
            hidden_states=(x, *outputs.hidden_states.values()) if with_states else None,
            attentions=tuple(outputs.attentions.values()) if with_weights else None,
        )
        return output_or_tuple(found, return_dict, config)


def encoder_of_maps(config: BeitConfig) -> BeitModel:
    """A model whose hidden states are used and whose final norm is not, so that it has none."""
    model = BeitModel(config, add_pooling_layer=False, initialize=False)
    model.encoder.norm = nn.Identity()
    return model


def maps_of(
    model: BeitModel, pixel_values: paddle.Tensor, numbers: list[int], output_attentions: bool | None
) -> tuple[list[paddle.Tensor], ModelOutput]:
    """Hidden states number k - 1, for each k of `numbers`, as maps `[B, D, h, w]`, and all outputs."""
    outputs = model(
        pixel_values, output_attentions=output_attentions, output_hidden_states=True, return_dict=True
    )
    grid = [side // model.config.patch_size for side in pixel_values.shape[2:]]
    return [feature_map(outputs.hidden_states[k - 1], grid) for k in numbers], outputs


def or_default(argument: bool | None, default: bool) -> bool:
    """The argument of `forward`; the default of the config where it is None."""
    return default if argument is None else argument


def output_or_tuple(output: Any, return_dict: bool | None, config: BeitConfig) -> Any:
    """The output, or its tuple, as `return_dict` or `config.return_dict` asks."""
    return output if or_default(return_dict, config.return_dict) else output.to_tuple()


def _whole_patches(images: paddle.Tensor, patch_size: int) -> paddle.Tensor:
    """The images without the rows and columns at the end that fill no patch, which transformers ignores.

    Raises:
        ValueError: they have no whole patch.
    """
    height, width = (side // patch_size * patch_size for side in images.shape[-2:])
    if not height or not width:
        given = "x".join(map(str, images.shape[-2:]))
        raise ValueError(
            f"pixel_values of {given} pixels are smaller than a patch, {patch_size}x{patch_size}"
        )
    return images[:, :, :height, :width]


def _build_encoder(config: BeitConfig) -> Beit:
    """The encoder of a config.

    Raises:
        ValueError: unknown activation.
    """
    if config.hidden_act not in _ACTIVATIONS:
        raise ValueError(f"hidden_act = {config.hidden_act!r}; known: {', '.join(_ACTIVATIONS)}")
    ratio = config.intermediate_size / config.hidden_size
    if int(config.hidden_size * ratio) != config.intermediate_size:  # rounded down
        ratio = math.nextafter(ratio, math.inf)
    return Beit(
        image_size=height_width(config.image_size),
        patch_size=config.patch_size,
        in_channels=config.num_channels,
        num_classes=0,
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=ratio,
        drop_rate=config.hidden_dropout_prob,
        attn_drop_rate=config.attention_probs_dropout_prob,
        drop_path_rate=config.drop_path_rate,
        init_values=config.layer_scale_init_value,
        use_abs_pos_emb=config.use_absolute_position_embeddings,
        use_rel_pos_bias=config.use_relative_position_bias,
        use_shared_rel_pos_bias=config.use_shared_relative_position_bias,
        use_mean_pooling=config.use_mean_pooling,
        epsilon=config.layer_norm_eps,
        activation=_ACTIVATIONS[config.hidden_act],
    )
