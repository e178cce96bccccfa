"""What the files beside the weights state of the model: `config.json` of transformers and timm, the config of a run.

Source: transformers, models/beit/configuration_beit.py; timm/models/beit.py `Beit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from beit.containers.errors import shown
from beit.metadata.architecture import Architecture
from beit.preprocessing import ImageSize, as_size

MODEL_ARGS = "model_args"
"""Key of timm's config.json for the arguments of its model; also written by `convert`, with `layer_norm_eps` added."""
PROBLEM_TYPE, MULTI_LABEL = "problem_type", "multi_label_classification"
"""Key of transformers' config.json, and its value for images with any number of labels; also written by `convert`."""
NUM_HEADS_UNKNOWN = (
    "no file states the number of attention heads, and no tensor tells it. State it in config.json beside the weights "
    '(transformers: "num_attention_heads", timm: "model_args": {"num_heads": …}), in NAME.pretrained_cfg.json '
    '({"model_args": {"num_heads": …}}), or as MODEL.NUM_HEADS of a config'
)
EPSILON = 1e-6
"""LayerNorm epsilon of every publisher but transformers, whose published files state theirs."""


class Keys(NamedTuple):
    """Names of one fact: in transformers' config.json, timm's model_args, and MODEL of our configs; "" where none has it."""

    transformers: str
    timm: str
    config: str


IN_TENSORS = {
    "width": Keys("hidden_size", "embed_dim", "EMBED_DIM"),
    "depth": Keys("num_hidden_layers", "depth", "DEPTH"),
    "num_heads": Keys("num_attention_heads", "num_heads", "NUM_HEADS"),
    "mlp_width": Keys("intermediate_size", "", ""),
    "patch_size": Keys("patch_size", "patch_size", "PATCH_SIZE"),
    "image_size": Keys("image_size", "img_size", ""),
    "has_absolute_positions": Keys("use_absolute_position_embeddings", "use_abs_pos_emb", "USE_ABS_POS_EMB"),
    "has_relative_positions": Keys("use_relative_position_bias", "use_rel_pos_bias", "USE_REL_POS_BIAS"),
    "has_shared_relative_positions": Keys(
        "use_shared_relative_position_bias", "use_shared_rel_pos_bias", "USE_SHARED_REL_POS_BIAS"
    ),
}
"""What the tensors of a model show: field of `Architecture` -> its names."""
RATES = {
    "drop_path": Keys("drop_path_rate", "drop_path_rate", "DROPPATH"),
    "dropout": Keys("hidden_dropout_prob", "proj_drop_rate", "DROPOUT"),
    "attention_dropout": Keys("attention_probs_dropout_prob", "attn_drop_rate", "ATTENTION_DROPOUT"),
}
NOT_IN_TENSORS = {
    "num_heads": IN_TENSORS["num_heads"],
    "epsilon": Keys("layer_norm_eps", "layer_norm_eps", "LAYER_NORM_EPS"),
    **RATES,
    "init_values": Keys("layer_scale_init_value", "init_values", "INIT_VALUES"),
}
"""What only a file beside the weights can state: field of `StatedModel` -> its names."""
# (key, values that this package supports)
_ONLY: tuple[tuple[str, tuple[object, ...]], ...] = (
    (PROBLEM_TYPE, ("single_label_classification", MULTI_LABEL)),
    ("hidden_act", ("gelu", "gelu_python")),
    ("num_channels", (3,)),
    ("auxiliary_num_convs", (1,)),
    ("auxiliary_concat_input", (False,)),
    ("semantic_loss_ignore_index", (255,)),
    ("act_layer", ("gelu",)),
    ("in_chans", (3,)),
    ("norm_layer", ()),
    ("swiglu_mlp", (False,)),
    ("scale_mlp", (False,)),
)
_CHANGE_OUTPUTS = (
    *(PROBLEM_TYPE, "hidden_act", "num_channels", "act_layer", "in_chans", "norm_layer", "swiglu_mlp"),
    "scale_mlp",
)
"""The keys of `_ONLY` without which the model computes other numbers."""


@dataclass(frozen=True)
class StatedModel:
    """Facts on a model that its tensors do not show, as the files beside the weights state them; None where they do not.

    Args:
        num_heads: attention heads per block. A position table shows them, too.
        epsilon: of the LayerNorms.
        drop_path, dropout, attention_dropout: rates in training.
        init_values: initial layer scale.
        pool_scales: sides of the pooled maps of a segmentation head.
        image_size: of the model's input in pixels; the tensors of a model without positions do not show it.
        is_multi_label: images have any number of labels.
        not_honored: sentences on settings that this package does not have and ignores.
        wrong_outputs: those of these sentences whose settings change the outputs of the model.
    """

    num_heads: int | None = None
    epsilon: float | None = None
    drop_path: float | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    init_values: float | None = None
    pool_scales: tuple[int, ...] | None = None
    image_size: ImageSize | None = None
    is_multi_label: bool = False
    not_honored: tuple[str, ...] = ()
    wrong_outputs: tuple[str, ...] = ()

    def arguments(self) -> dict[str, object]:
        """`model_args` that state the same, with timm's keys."""
        found = {keys.timm: getattr(self, field) for field, keys in NOT_IN_TENSORS.items()}
        return {key: value for key, value in found.items() if value is not None}


def stated_model(metadata: Mapping[str, object]) -> StatedModel:
    """The facts that the JSON beside the weights states and its tensors do not show."""
    arguments = _arguments(metadata)
    values = {field: _number(metadata, arguments, keys) for field, keys in NOT_IN_TENSORS.items()}
    heads, scales = values.pop("num_heads"), metadata.get("pool_scales")
    ignored = {
        key: f"{key} is {shown(str(value))}, this package has {' and '.join(map(str, allowed)) or 'LayerNorm'} only: not used"
        for key, allowed in _ONLY
        if (value := metadata.get(key, arguments.get(key))) is not None and value not in allowed
    }
    return StatedModel(
        **values,
        num_heads=heads if type(heads) is int and heads > 0 else None,
        pool_scales=tuple(scales) if isinstance(scales, list) and all(map(as_size, scales)) else None,
        image_size=as_size(arguments.get("img_size", metadata.get("image_size"))),
        is_multi_label=metadata.get(PROBLEM_TYPE) == MULTI_LABEL,
        not_honored=tuple(ignored.values()),
        wrong_outputs=tuple(ignored[key] for key in _CHANGE_OUTPUTS if key in ignored),
    )


def contradictions(metadata: Mapping[str, object], found: Architecture) -> list[str]:
    """One sentence per fact that the JSON states differently from the tensors. The tensors are used."""
    arguments, sentences = _arguments(metadata), []
    for field, keys in IN_TENSORS.items():
        actual = getattr(found, field)
        for source, key in ((metadata, keys.transformers), (arguments, keys.timm)):
            stated = source.get(key)
            value = as_size(stated) if field == "image_size" else stated
            is_told = actual is not None and (isinstance(actual, bool) or actual != 0)
            if value is not None and is_told and value != actual:
                sentences.append(
                    f"{key} is {stated} in the JSON beside the weights, {actual} by the tensors: the tensors are used"
                )
    return sentences


def _arguments(metadata: Mapping[str, object]) -> Mapping[str, Any]:
    arguments = metadata.get(MODEL_ARGS)
    return arguments if isinstance(arguments, Mapping) else {}


def _number(metadata: Mapping[str, object], arguments: Mapping[str, object], keys: Keys) -> Any:
    found = (metadata.get(keys.transformers), arguments.get(keys.timm))
    return next((value for value in found if type(value) in (int, float)), None)
