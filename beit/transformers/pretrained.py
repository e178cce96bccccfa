"""`from_pretrained` and `save_pretrained`: weights of any publisher in, folders of transformers out."""

from __future__ import annotations

import logging
from collections.abc import Container
from pathlib import Path
from typing import Any, TypeVar

import paddle
from paddle import nn

from beit.checkpoint.files import write
from beit.checkpoint.fit import fit
from beit.checkpoint.key_format import Rules, rename
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.translate import Checkpoint, from_canonical
from beit.containers.errors import listed
from beit.metadata.files import WEIGHT_FILES, json_files
from beit.transformers.config_files import CONFIG_FILE, PUBLISHER, values_of_weights
from beit.transformers.configuration import BeitConfig
from beit.zoo import path_of

Model = TypeVar("Model", bound="BeitPreTrainedModel")

# Tensors that a model may have and a file of weights need not: they keep their initial values, which is logged.
_OPTIONAL = ("*mask_token", "fpn1.*", "fpn2.*")
_ATTENTION = (None, "eager", "sdpa")  # names for ways to compute the same numbers

_LOGGER = logging.getLogger(__name__)


class BeitPreTrainedModel(nn.Layer):
    """Base of the models: config, loading and saving.

    Args:
        config: kept as `config`.
    """

    canonical_names: Rules = (("encoder.*", "*"), ("*", "*"))
    """(name of a tensor in this model, its canonical name): the first row that fits counts."""

    def __init__(self, config: BeitConfig) -> None:
        super().__init__()
        config.check()
        self.config = config

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return self.config.num_labels

    @property
    def device(self) -> Any:
        """Where the weights are."""
        return self.parameters()[0].place

    @property
    def base_model(self) -> Any:
        """The `BeitModel`, whose parameters are all but those of the heads."""
        return getattr(self, "beit", self)

    @classmethod
    def from_pretrained(
        cls: type[Model],
        source: str | Path,
        *,
        config: BeitConfig | None = None,
        ignore_mismatched_sizes: bool = False,
        attn_implementation: str | None = None,
        device_map: str | None = None,
        dtype: Any = None,
        **changes: Any,
    ) -> Model:
        """The model with its weights, in evaluation mode. What was loaded is logged.

        Where the image size differs from that of the weights, positions are resized with the rule of fine-tuning.

        Args:
            source: folder of transformers or timm, file of any publisher, output folder of a run, or name of
                `beit.list_models()`, such as "microsoft/beit-base-patch16-224", which is downloaded.
            config: replaces the config of the weights.
            ignore_mismatched_sizes: a head for another number of classes starts with new weights; False refuses it.
            attn_implementation: "eager" or "sdpa"; there is one implementation, which gives the numbers of both.
            device_map: "auto" or None for the device of Paddle (`paddle.set_device`).
            dtype: "auto", "float32", `paddle.float32` or None; the weights are float32. (`torch_dtype` is the same.)
            changes: fields of the config that replace those of the weights, such as `num_labels` or `id2label`; or
                arguments of the constructor (`add_pooling_layer`).

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: unknown name or value; the weights are of another kind of model, or do not fit.
            DownloadError: the file could not be fetched; the message says where to put it.

        Examples:
            >>> model = BeitForImageClassification.from_pretrained("folder", num_labels=3, ignore_mismatched_sizes=True)
        """
        if attn_implementation not in _ATTENTION:
            raise ValueError(f"attn_implementation = {attn_implementation!r}; known: 'eager', 'sdpa'")
        if device_map not in (None, "auto"):
            raise ValueError(
                f"device_map = {device_map!r}; leave it out and choose the device with paddle.set_device"
            )
        dtype = changes.pop("torch_dtype", dtype)
        if dtype not in (None, "auto", "float32", paddle.float32):
            raise ValueError(
                f"dtype = {dtype!r}; weights are float32: leave it out, and for half precision call the model under "
                "paddle.amp.auto_cast(dtype='float16')"
            )
        own = {name: changes.pop(name) for name in ("add_pooling_layer",) if name in changes}
        own["initialize"] = False
        opened = open_checkpoint(path_of(source))
        if config is None:
            config = BeitConfig.from_dict(values_of_weights(source, opened), **changes)
        elif changes:
            raise ValueError(f"{', '.join(changes)}: set them in the config that is passed")
        model = cls(config, **own)
        model._load(opened, ignore_mismatched_sizes)
        model.eval()
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, which transformers loads, into a folder.

        Both appear, or earlier ones stay. Images need the processor's `save_pretrained` beside them.
        """
        self.config.architectures = [type(self).__name__]
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        state = {
            self._canonical(name): tensor.astype("float32").numpy()
            for name, tensor in self.state_dict().items()
        }
        contents = from_canonical(state, PUBLISHER, self.base_model.encoder.patch_embed.grid_size)
        with json_files({target / CONFIG_FILE: self.config.to_dict()}):
            write(target / WEIGHT_FILES[0], contents, metadata={"format": "pt"})

    def _canonical(self, name: str) -> str:
        canonical = rename(name, self.canonical_names)
        assert canonical is not None  # the last row fits any name
        return canonical

    def _load(self, opened: Checkpoint, ignore_mismatched_sizes: bool) -> None:
        tensors = self.state_dict()
        shapes = {self._canonical(name): tuple(tensor.shape) for name, tensor in tensors.items()}
        grid = self.base_model.encoder.patch_embed.grid_size
        state, report = fit(opened, shapes, grid=grid, allow_missing=_OPTIONAL)
        mismatched = [name for name in report.new if name in report.dropped]
        if mismatched and not ignore_mismatched_sizes:
            raise ValueError(
                f"{opened.info.name}: {listed(mismatched)}: {report.new[mismatched[0]]}; with "
                "ignore_mismatched_sizes=True they start with new values"
            )
        self._init_weights([name for name in tensors if self._canonical(name) in report.new])
        self.set_state_dict(
            {name: state.get(self._canonical(name), tensor) for name, tensor in tensors.items()}
        )
        _LOGGER.info("%s", report)
        if report.new:
            _LOGGER.warning(
                "%s has no weights for %s: train the model before you use it",
                opened.info.name,
                listed(sorted(report.new)),
            )

    def _init_weights(self, names: Container[str] | None = None) -> None:
        """Initial values of transformers: normal weights; biases, tokens and positions 0. Norms have theirs, 1 and 0.

        Source: transformers, models/beit/modeling_beit.py, `_init_weights`.

        Args:
            names: of the parameters that are set; None for all.
        """
        normal = nn.initializer.Normal(std=self.config.initializer_range)
        zeros = nn.initializer.Constant(0.0)
        for name, parameter in self.named_parameters():
            if names is not None and name not in names:
                continue
            if name.endswith(("bias", "token", "pos_embed", "_table")):
                zeros(parameter)
            elif parameter.ndim > 1:
                normal(parameter)
