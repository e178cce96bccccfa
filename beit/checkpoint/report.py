"""What loading a checkpoint did: tensors taken, changed, left out and new, and how the weights expect their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from yacs.config import CfgNode

from beit.checkpoint.adapt import Changes
from beit.checkpoint.canonical import State
from beit.checkpoint.translate import CheckpointInfo
from beit.containers.errors import listed
from beit.metadata.mismatches import mismatches
from beit.printable import printable


@dataclass(frozen=True)
class LoadReport:
    """Result of `load_pretrained`. Tensors have canonical names, those of `dropped` the names of the file."""

    info: CheckpointInfo
    taken: tuple[str, ...]  # tensors loaded as they are
    reshaped: dict[str, str]  # tensors whose layout changed -> from what to what
    resized: dict[str, str]  # tensors of another size -> from what to what
    dropped: dict[str, str]  # tensors of the file that were left out -> reason
    new: dict[str, str]  # tensors of the model that keep their initial values -> reason
    num_parameters: int  # numbers in the model that came from the file
    non_finite: tuple[str, ...]  # tensors that hold a NaN or an infinity

    def __repr__(self) -> str:  # a notebook shows it
        return str(self)

    def mismatches(self, config: CfgNode) -> list[str]:
        """Where the config contradicts the checkpoint: one sentence each, empty when they agree.

        They are warnings, not errors: a config may differ from the checkpoint on purpose.

        Args:
            config: the tree of `beit.config.get_config`.
        """
        return mismatches(self.info, config, has_new_head="head.weight" in self.new)

    def __str__(self) -> str:
        info = self.info
        where = f", under {info.wrapper!r}" if info.wrapper else ""
        lines = [
            f"{info.name}: {info.publisher} {info.kind} ({info.container}{where}{', EMA weights' if info.ema else ''})",
            f"  taken {len(self.taken)} tensors as they are, {self.num_parameters:,} parameters in all",
            *_grouped("reshaped", self.reshaped),
            *_grouped("resized", self.resized),
            *_grouped("left out", self.dropped),
            *_grouped("newly initialized", self.new),
            *(
                f"  note: {count} tensors cast from {dtype} to float32"
                for dtype, count in info.dtype_casts.items()
            ),
            *(f"  note: {note}" for note in info.notes),
            *([f"  note: not read: {listed(info.left_out)}"] if info.left_out else []),
            *_features(info.feature_layers),
        ]
        if self.non_finite:
            lines.append(f"  warning: NaN or Inf in {listed(self.non_finite)}")
        return "\n".join(map(printable, [*lines, f"  images: {_describe_preprocessing(info)}"]))


def report_of(
    info: CheckpointInfo, state: State, changes: Changes, non_finite: tuple[str, ...] = ()
) -> LoadReport:
    """The report on a checkpoint whose state became `state` by `changes`."""
    return LoadReport(
        info=info,
        taken=tuple(name for name in state if name not in info.transposed and name not in changes.resized),
        reshaped=dict.fromkeys(sorted(info.transposed & state.keys()), "from (out, in) to (in, out)"),
        resized=changes.resized,
        dropped=info.dropped | changes.dropped,
        new=changes.new,
        num_parameters=sum(array.size for array in state.values()),
        non_finite=non_finite,
    )


def _describe_preprocessing(info: CheckpointInfo) -> str:
    """One line on mean, std, crop, filter, size and pooling."""
    p = info.preprocessing
    parts = [
        f"mean {_numbers(p.mean)} std {_numbers(p.std)}" if p.mean and p.std else "mean and std unknown",
        f"size {p.image_size}" if p.image_size else "size unknown",
        p.describe_resize(),
        p.interpolation,
        f"{p.pooling} pooling" if p.pooling else "",
    ]
    return ", ".join(part for part in parts if part) + (f" ({p.source})" if p.source else "")


def _features(layers: Mapping[str, tuple[int, ...]]) -> list[str]:
    """One line on the blocks whose outputs a segmentation head takes."""
    if "trained" not in layers:
        return []
    line = f"  features: trained on the outputs of blocks {list(layers['trained'])} (from 0)"
    if "huggingface" in layers:
        theirs = list(layers["huggingface"])
        line += f"; transformers itself takes {theirs}: to repeat its numbers set MODEL.OUT_INDICES {theirs}"
    return [line]


def _numbers(values: tuple[float, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "/".join(str(value) for value in values)


def _grouped(title: str, reasons: Mapping[str, str]) -> list[str]:
    """One line per reason, with its tensors."""
    counts = Counter(reasons.values())
    return [
        f"  {title} {count} ({reason}): {listed([name for name, why in reasons.items() if why == reason])}"
        for reason, count in counts.items()
    ]
