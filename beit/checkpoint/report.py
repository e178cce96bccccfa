"""What loading a checkpoint did: tensors taken, changed, left out and new, and what the weights expect of the images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from beit.checkpoint.canonical import SEGMENTATION
from beit.checkpoint.dialects.translate import DialectInfo

_SHOWN = 6  # tensors named per reason; the rest is counted
_TOLERANCE = 1e-4  # on means, deviations and crops


@dataclass(frozen=True)
class LoadReport:
    """Result of `load_pretrained`.

    `taken` lists tensors loaded as they are (canonical names); `reshaped` those whose layout changed, `resized` those
    of another size, `dropped` names of the file that were left out, `new` tensors of the model that keep their
    initial values: each with its reason. `num_parameters` counts the numbers of the model that came from the file.
    """

    source: str
    container: str
    dialect: DialectInfo
    taken: tuple[str, ...] = ()
    reshaped: dict[str, str] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    new: dict[str, str] = field(default_factory=dict)
    num_parameters: int = 0
    non_finite: tuple[str, ...] = ()

    def mismatches(self, config: Any) -> list[str]:
        """Where the config contradicts the checkpoint: one sentence each, empty when they agree.

        Raised by nobody: a user may know better. `config` is the tree of `beit.config.get_config`.
        """
        if config.TASK == "segment" and self.dialect.kind != SEGMENTATION:
            return []  # the recipes train with other statistics and sizes than those of the encoder's file
        wants, found = self.dialect.preprocessing, self._layer_mismatch(config)

        def compare(key: str, given: object, expected: object, equal: bool) -> None:
            if expected is not None and not equal:
                found.append(f"{key} is {given}, the checkpoint's is {expected} ({wants.source})")

        data, model = config.DATA, config.MODEL
        compare(
            "DATA.IMAGENET_MEAN",
            tuple(data.IMAGENET_MEAN),
            wants.mean,
            _close(data.IMAGENET_MEAN, wants.mean),
        )
        compare(
            "DATA.IMAGENET_STD", tuple(data.IMAGENET_STD), wants.std, _close(data.IMAGENET_STD, wants.std)
        )
        compare("DATA.CROP_PCT", data.CROP_PCT, wants.crop_pct, _close([data.CROP_PCT], [wants.crop_pct]))
        compare(
            "DATA.INTERPOLATION",
            data.INTERPOLATION,
            wants.interpolation,
            wants.interpolation == data.INTERPOLATION,
        )
        size = data.IMAGE_SIZE if isinstance(data.IMAGE_SIZE, int) else tuple(data.IMAGE_SIZE)
        same_size = size in (wants.image_size, (wants.image_size,) * 2)
        if wants.image_size and not same_size:
            found.append(
                f"DATA.IMAGE_SIZE is {size}, the checkpoint's is {wants.image_size}: positions are interpolated"
            )
        pooling = "mean" if model.USE_MEAN_POOLING else "token"
        if wants.pooling and "head.weight" not in self.new and pooling != wants.pooling:
            found.append(
                f"MODEL.USE_MEAN_POOLING is {model.USE_MEAN_POOLING}, the checkpoint pools by {wants.pooling}"
            )
        classes = self.dialect.architecture.num_classes
        if classes and classes != model.NUM_CLASSES:
            found.append(
                f"MODEL.NUM_CLASSES is {model.NUM_CLASSES}, the checkpoint has {classes}: its head is not used"
            )
        return found

    def _layer_mismatch(self, config: Any) -> list[str]:
        """Whether the segmentation head gets other blocks than it was trained on."""
        trained, chosen = self.dialect.feature_layers.get("trained"), config.MODEL.OUT_INDICES
        if trained is None or chosen is None or tuple(chosen) == trained:
            return []
        as_theirs = tuple(chosen) == self.dialect.feature_layers.get("huggingface")
        why = "as transformers reads the file" if as_theirs else "which nobody feeds this head"
        return [f"MODEL.OUT_INDICES is {list(chosen)}, {why}; it was trained on {list(trained)}"]

    def __str__(self) -> str:
        info = self.dialect
        where = f", under {info.wrapper!r}" if info.wrapper else ""
        lines = [
            f"{self.source}: {info.publisher} {info.kind} ({self.container}{where}{', EMA weights' if info.ema else ''})",
            f"  taken {len(self.taken)} tensors as they are, {self.num_parameters:,} parameters in all",
            *_grouped("reshaped", self.reshaped),
            *_grouped("resized", self.resized),
            *_grouped("left out", self.dropped),
            *_grouped("newly initialized", self.new),
            *(
                f"  note: {number} tensors cast from {dtype} to float32"
                for dtype, number in info.casts.items()
            ),
            *(f"  note: {note}" for note in info.notes),
            *_features(info.feature_layers),
        ]
        if self.non_finite:
            lines.append(f"  warning: NaN or Inf in {_names(list(self.non_finite))}")
        return "\n".join([*lines, f"  images: {describe_preprocessing(info)}"])


def reshaped_tensors(info: DialectInfo) -> dict[str, str]:
    """Canonical names of weights whose layout changed, with the reason."""
    return dict.fromkeys(sorted(info.transposed), "from (out, in) to (in, out)")


def describe_preprocessing(info: DialectInfo) -> str:
    """One line on mean, std, crop, filter, size and pooling."""
    p = info.preprocessing
    parts = [
        f"mean {_numbers(p.mean)} std {_numbers(p.std)}" if p.mean and p.std else "mean and std unknown",
        f"size {p.image_size}" if p.image_size else "size unknown",
        "squashed to a square" if p.squash else f"crop {p.crop_pct}" if p.crop_pct else "",
        p.interpolation,
        f"{p.pooling} pooling" if p.pooling else "",
    ]
    return ", ".join(part for part in parts if part) + (f" ({p.source})" if p.source else "")


def _features(layers: dict[str, tuple[int, ...]]) -> list[str]:
    """One line on the blocks that a segmentation head reads."""
    if "trained" not in layers:
        return []
    line = f"  features: trained on the outputs of blocks {list(layers['trained'])} (from 0)"
    if "huggingface" in layers:
        line += (
            f"; transformers itself takes {list(layers['huggingface'])}: to repeat its numbers set "
            f"MODEL.OUT_INDICES {list(layers['huggingface'])}"
        )
    return [line]


def _close(given: Any, expected: Any) -> bool:
    if expected is None or None in tuple(expected):
        return True
    return all(abs(a - b) < _TOLERANCE for a, b in zip(given, expected, strict=True))


def _numbers(values: tuple[float, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "/".join(str(value) for value in values)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _grouped(title: str, reasons: dict[str, str]) -> list[str]:
    """One line per reason, with its tensors."""
    counts = Counter(reasons.values())
    return [
        f"  {title} {count} ({reason}): {_names([name for name, why in reasons.items() if why == reason])}"
        for reason, count in counts.items()
    ]
