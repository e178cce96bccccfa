"""What the models return: dicts whose entries are also attributes and, by number, those of a tuple."""

from __future__ import annotations

from typing import Any, ClassVar

import paddle


class ModelOutput(dict[str, Any]):
    """Outputs by name. `output.logits`, `output["logits"]`, `output[0]` and `output[:2]` work, as in transformers.

    What was not computed is None as an attribute, and missing in the dict and in the tuple.
    """

    names: ClassVar[tuple[str, ...]] = ()

    def __init__(self, **values: Any) -> None:
        assert values.keys() <= set(self.names)
        super().__init__({name: values[name] for name in self.names if values.get(name) is not None})

    def __getitem__(self, key: str | int | slice) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        if name in self.names:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self.names)}")

    def to_tuple(self) -> tuple[Any, ...]:
        """The outputs that were computed, in the order of the names."""
        return tuple(self.values())


class BeitModelOutputWithPooling(ModelOutput):
    """Of `BeitModel`: tokens `[B, N, D]`, pooled features `[B, D]`, `depth + 1` hidden states, attention weights."""

    names = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")
    last_hidden_state: paddle.Tensor
    pooler_output: paddle.Tensor | None
    hidden_states: tuple[paddle.Tensor, ...] | None
    attentions: tuple[paddle.Tensor, ...] | None


class _WithLogits(ModelOutput):
    names = ("loss", "logits", "hidden_states", "attentions")
    loss: paddle.Tensor | None
    logits: paddle.Tensor
    hidden_states: tuple[paddle.Tensor, ...] | None
    attentions: tuple[paddle.Tensor, ...] | None


class MaskedLMOutput(_WithLogits):
    """Of `BeitForMaskedImageModeling`; logits `[B, L, K]`."""


class ImageClassifierOutput(_WithLogits):
    """Of `BeitForImageClassification`; logits `[B, K]`."""


class SemanticSegmenterOutput(_WithLogits):
    """Of `BeitForSemanticSegmentation`; logits `[B, K, 4h, 4w]`."""


class BackboneOutput(ModelOutput):
    """Of `BeitBackbone`: a map `[B, D, h, w]` per stage."""

    names = ("feature_maps", "hidden_states", "attentions")
    feature_maps: tuple[paddle.Tensor, ...]
    hidden_states: tuple[paddle.Tensor, ...] | None
    attentions: tuple[paddle.Tensor, ...] | None
