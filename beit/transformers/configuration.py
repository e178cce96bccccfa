"""`BeitConfig`: the architecture of a model under transformers' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from beit.checkpoint.open import open_checkpoint
from beit.metadata.files import write_json
from beit.preprocessing import ImageSize, as_size, height_width
from beit.transformers.config_files import CONFIG_FILE, MODEL_TYPE, read_config, values_of_weights
from beit.zoo import path_of

PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
_DERIVED = ("model_type", "stage_names")  # they follow from the class and the number of layers
_STATED_TOGETHER = ({"id2label", "label2id", "num_labels"}, {"out_features", "out_indices"})
_SIZES = ("image_size",)  # a side, or [height, width]


@dataclass(init=False)
class BeitConfig:
    """transformers' `BeitConfig`: the same names, defaults and meanings.

    Source: transformers 5.24, models/beit/configuration_beit.py. As there, further keyword arguments become attributes
    and are saved.

    Args:
        vocab_size: number of visual tokens that masked image modeling predicts.
        hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: of the encoder.
        hidden_act: "gelu", "relu", "selu", "silu", "gelu_new" or "gelu_pytorch_tanh".
        hidden_dropout_prob, attention_probs_dropout_prob: dropout of the tokens and of the attention weights.
        initializer_range: standard deviation of initial weights.
        layer_norm_eps: epsilon of the LayerNorms.
        image_size: of square images in pixels, or (height, width).
        patch_size, num_channels: of the patches.
        use_mask_token: have a mask token, which `bool_masked_pos` needs.
        use_absolute_position_embeddings, use_relative_position_bias, use_shared_relative_position_bias: positions.
        layer_scale_init_value: initial LayerScale; 0 for none.
        drop_path_rate: stochastic depth of the last layer.
        use_mean_pooling: pool the mean patch token; False for the class token.
        pool_scales, use_auxiliary_head, auxiliary_loss_weight, auxiliary_channels, auxiliary_num_convs,
            auxiliary_concat_input, semantic_loss_ignore_index: of semantic segmentation.
        add_fpn, reshape_hidden_states: of `BeitBackbone`: a feature pyramid; maps `[B, D, h, w]` instead of tokens.
        output_attentions, output_hidden_states, return_dict: defaults of the arguments of `forward`.
        problem_type: loss of classification: one of `PROBLEM_TYPES`; None finds it by `num_labels` and the labels.
        architectures: names of the classes that the weights belong to.
        num_labels: number of classes, 2 by default; or give their names:
        id2label, label2id: names of the classes by number, and the reverse. Gaps between the numbers are closed.
        out_features, out_indices: stages ("stem", "stage1", …) that `BeitBackbone` returns, by name or by number. For
            semantic segmentation four numbers; as in transformers, number k is the output of layer k - 1, layers counted
            from 1.

    Raises:
        ValueError: a value of another type, or values that contradict each other.

    Examples:
        >>> from beit.transformers import BeitConfig, BeitModel
        >>> model = BeitModel(BeitConfig(num_hidden_layers=2))
    """

    vocab_size: int = 8192
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Any = 224
    patch_size: int = 16
    num_channels: int = 3
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    use_shared_relative_position_bias: bool = False
    layer_scale_init_value: float = 0.1
    drop_path_rate: float = 0.1
    use_mean_pooling: bool = True
    pool_scales: Sequence[int] = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255
    add_fpn: bool = False
    reshape_hidden_states: bool = True
    output_attentions: bool = False
    output_hidden_states: bool = False
    return_dict: bool = True
    problem_type: str | None = None
    architectures: Sequence[str] | None = None

    id2label: dict[int, str] = field(init=False)
    label2id: dict[str, int] = field(init=False)

    def __init__(self, **values: Any) -> None:
        if values.get("model_type", MODEL_TYPE) != MODEL_TYPE:
            raise ValueError(f"model_type = {values['model_type']!r}; expected {MODEL_TYPE!r}")
        values = {name: value for name, value in values.items() if name not in _DERIVED}
        for entry in fields(self):
            if entry.init:
                value = values.pop(entry.name, entry.default)
                setattr(self, entry.name, _checked(entry.name, value, entry.default))
        self.check()
        self._set_labels(values)
        self._set_stages(values)
        taken = sorted(name for name in values if hasattr(type(self), name))
        if taken:
            raise ValueError(f"{taken[0]} is the name of a method of BeitConfig, not of a field")
        self._further = sorted(values)
        for name, value in values.items():
            setattr(self, name, value)

    @property
    def model_type(self) -> str:
        """ "beit"."""
        return MODEL_TYPE

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count: int) -> None:
        """Names the classes LABEL_0, LABEL_1, … if their number changes."""
        if len(self.id2label) != count:
            self.id2label = {i: f"LABEL_{i}" for i in range(count)}
            self.label2id = {name: i for i, name in self.id2label.items()}

    @property
    def stage_names(self) -> list[str]:
        """ "stem" for the tokens before the first layer, "stage1" for those after it, …"""
        return ["stem", *(f"stage{i + 1}" for i in range(self.num_hidden_layers))]

    @property
    def out_indices(self) -> list[int]:
        """Numbers of the chosen stages; by default the last one."""
        return [self.num_hidden_layers] if self._out_indices is None else self._out_indices

    @out_indices.setter
    def out_indices(self, indices: Sequence[int] | None) -> None:
        """Checks the numbers; None for the default."""
        count = self.num_hidden_layers + 1
        found = None if indices is None else _numbers("out_indices", indices)
        if found is not None and not all(-count <= i < count for i in found):
            raise ValueError(f"out_indices = {found}; expected numbers from 0 to {count - 1}")
        positions = [i % count for i in found or ()]
        if positions != sorted(set(positions)):
            raise ValueError(f"out_indices = {found}; expected them in increasing order, each once")
        self._out_indices = found

    @property
    def out_features(self) -> list[str]:
        """Names of the chosen stages."""
        return [self.stage_names[i] for i in self.out_indices]

    @out_features.setter
    def out_features(self, names: Sequence[str]) -> None:
        """Chooses the stages of these names."""
        known = self.stage_names
        if not isinstance(names, list | tuple) or not all(name in known for name in names):
            raise ValueError(f"out_features = {names!r}; known: {', '.join(known)}")
        self.out_indices = [known.index(name) for name in names]

    @classmethod
    def from_pretrained(cls, source: str | Path, **changes: Any) -> BeitConfig:
        """The config of weights, or of a `config.json`.

        Args:
            source: a `config.json`, or what the `from_pretrained` of the models takes: a folder, a file of weights or a
                published name, whose weights are downloaded. Without a `config.json` of transformers the config is
                derived from the tensors.
            changes: fields that replace those found.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a JSON object, of another kind of model, or holds a wrong value.
            DownloadError: the weights could not be fetched.
        """
        path = Path(source)
        if path.suffix == ".json":
            return cls.from_dict(read_config(path), **changes)
        beside = path / CONFIG_FILE
        values = read_config(beside) if beside.is_file() else {}
        if "model_type" not in values:  # no config.json, or timm's
            values = values_of_weights(source, open_checkpoint(path_of(source)))
        return cls.from_dict(values, **changes)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **changes: Any) -> BeitConfig:
        """The config of the contents of a `config.json`; `changes` are fields that replace them."""
        for together in _STATED_TOGETHER:  # a change of one replaces all of them
            if changes.keys() & together:
                values = {name: value for name, value in values.items() if name not in together}
        return cls(**values | changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, as transformers' `config.json` has them."""
        names = [*(entry.name for entry in fields(self)), *("out_features", "out_indices"), *self._further]
        return {"model_type": self.model_type} | {name: getattr(self, name) for name in names}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` into a folder, which is made if it does not exist."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_json(Path(folder) / CONFIG_FILE, self.to_dict())

    def check(self) -> None:
        """Refuse values that contradict each other, which may have been set one after the other.

        Raises:
            ValueError: there are such values.
        """
        for name in ("patch_size", "num_attention_heads", "hidden_size", "num_hidden_layers", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}; expected 1 or more")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of num_attention_heads = {self.num_attention_heads}"
            )
        height, width = height_width(self.image_size)
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"image_size = {self.image_size} is not a multiple of patch_size = {self.patch_size}"
            )
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(f"problem_type = {self.problem_type!r}; known: {', '.join(PROBLEM_TYPES)}, None")

    def _set_labels(self, values: dict[str, Any]) -> None:
        """Take the classes out of `values`."""
        names, numbers, count = (values.pop(key, None) for key in ("id2label", "label2id", "num_labels"))
        self.id2label, self.label2id = {}, {}
        self.num_labels = 2 if count is None else _checked("num_labels", count, 2)
        if names is None:
            return
        if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
            raise ValueError(f"id2label = {names!r}; expected {{number: name}}")
        if numbers is not None and not isinstance(numbers, dict):
            raise ValueError(f"label2id = {numbers!r}; expected {{name: number}}")
        if count not in (None, len(names)):
            raise ValueError(f"num_labels = {count}, but id2label has {len(names)} names")
        # transformers' list of ImageNet-21k has gaps: the file of the weights has outputs for the names that are left.
        self.id2label = {i: str(names[key]) for i, key in enumerate(sorted(names, key=int))}
        has_gaps = [int(key) for key in sorted(names, key=int)] != list(self.id2label)
        derived = {name: i for i, name in self.id2label.items()}
        self.label2id = derived if numbers is None or has_gaps else dict(numbers)

    def _set_stages(self, values: dict[str, Any]) -> None:
        """Take the stages out of `values`."""
        features, indices = values.pop("out_features", None), values.pop("out_indices", None)
        for old in ("segmentation_indices", "semantic_out_indices"):
            indices = values.pop(old, None) if indices is None and old in values else indices
        if indices is None and features is not None:
            self.out_features = features
        else:
            self.out_indices = indices
        if features is not None and list(features) != self.out_features:
            raise ValueError(f"out_features = {list(features)} are not the stages of out_indices = {indices}")
        if self.add_fpn and len(self.out_indices) != 4:
            raise ValueError(
                f"add_fpn = True needs four out_indices, such as [3, 5, 7, 11]; got {self.out_indices}"
            )


def _numbers(name: str, value: Any) -> list[int]:
    if not isinstance(value, list | tuple) or not all(type(number) is int for number in value):
        raise ValueError(f"{name} = {value!r}; expected a list of whole numbers")
    return list(value)


def _checked(name: str, value: Any, default: Any) -> Any:
    """The value of a field if it has the type of its default."""
    if name in _SIZES:
        size: ImageSize | None = as_size(value)
        if size is None:
            raise ValueError(f"{name} = {value!r}; expected pixels, or [height, width]")
        return size
    if name == "pool_scales":
        return _numbers(name, value)
    if default is None:  # free, or compared with what is known elsewhere
        return value
    if isinstance(default, bool):
        is_valid, expected = isinstance(value, bool), "True or False"
    elif isinstance(default, str):
        is_valid, expected = isinstance(value, str), "text"
    elif isinstance(default, int):
        is_valid, expected = type(value) is int and value >= 0, "a whole number"
    else:
        is_valid, expected = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    if not is_valid:
        raise ValueError(f"{name} = {value!r}; expected {expected}")
    return value
