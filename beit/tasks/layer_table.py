"""Accuracy of each layer and kind of feature: as JSON, as a table, as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.figures import figure_pixels, save_image
from beit.files import write_text
from beit.logging import format_table
from beit.models.features import FeatureName
from beit.tasks.task import Sums

_FIGURE_SIZE = (7, 4.5)  # inches


@dataclass(frozen=True)
class LayerTable:
    """Top-1 and top-5 accuracy in percent for each feature.

    Args:
        title: what was measured, for example "linear probe of beit_base".
        facts: further entries of the JSON file: weights, data, protocol.
        top1: top-1 accuracy of each feature.
        top5: top-5 accuracy of each feature.
        count: number of evaluated images.
    """

    title: str
    facts: Mapping[str, Any]
    top1: Mapping[FeatureName, float]
    top5: Mapping[FeatureName, float]
    count: int

    @classmethod
    def from_sums(
        cls, title: str, facts: Mapping[str, Any], names: Sequence[FeatureName], sums: Sums
    ) -> LayerTable:
        """The table of the sums `count`, and `top1` and `top5` `[features]`.

        Args:
            title, facts: as in `LayerTable`.
            names: the features, in the order of the sums.
            sums: what `beit.tasks.probe.count_correct` returns, added over batches and ranks.
        """
        count = int(sums["count"])
        accuracies = {
            key: {
                name: 100.0 * float(correct) / count
                for name, correct in zip(names, np.atleast_1d(sums[key]), strict=True)
            }
            for key in ("top1", "top5")
        }
        return cls(title, facts, accuracies["top1"], accuracies["top5"], count)

    @property
    def best(self) -> FeatureName:
        """The feature with the highest top-1 accuracy; the first one of equal features."""
        return max(self.top1, key=lambda name: self.top1[name])

    def metrics(self) -> dict[str, float]:
        """The numbers of the best feature, and the best top-1 accuracy of each kind."""
        best = self.best
        metrics = {"top1": self.top1[best], "top5": self.top5[best], "best_layer": float(best.layer)}
        for kind in self._kinds:
            metrics[f"top1_{kind}"] = max(value for name, value in self.top1.items() if name.kind == kind)
        return {**metrics, "count": float(self.count)}

    def text(self) -> str:
        """Top-1 accuracy as a table with one row per layer and one column per kind; the best is marked with a star."""
        rows = [["layer", *(f"{kind} " for kind in self._kinds)]]
        for layer in self._layers:
            names = [FeatureName(layer, kind) for kind in self._kinds]
            stars = ["*" if name == self.best else " " for name in names]
            cells = [f"{self.top1[name]:.2f}{star}" for name, star in zip(names, stars, strict=True)]
            rows.append([str(layer), *cells])
        heading = f"{self.title}: top-1 in percent, {self.count} images, best: {self.best}"
        return f"{heading}\n{format_table(rows)}\n"

    def write(self, folder: Path, stem: str) -> dict[str, np.ndarray]:
        """Write `<stem>.json`, `<stem>.txt` and `<stem>.png`; returns the plot as an image by its title."""
        features = [
            {"layer": name.layer, "kind": name.kind, "top1": self.top1[name], "top5": self.top5[name]}
            for name in self.top1
        ]
        content = {"title": self.title, **self.facts, "count": self.count, "best": str(self.best)}
        content |= {"features": features}
        write_text(folder / f"{stem}.json", json.dumps(content, indent=2) + "\n")
        write_text(folder / f"{stem}.txt", self.text())
        plot = self._plot()
        save_image(Image.fromarray(plot), folder / f"{stem}.png")
        return {self.title: plot}

    def _plot(self) -> np.ndarray:
        from matplotlib.figure import Figure  # here, because the import takes half a second

        figure = Figure(figsize=_FIGURE_SIZE, dpi=120, layout="tight")
        axes = figure.add_subplot()
        for kind, marker in zip(self._kinds, "osd", strict=False):
            values = [self.top1[FeatureName(layer, kind)] for layer in self._layers]
            axes.plot(self._layers, values, marker=marker, label=kind)
        axes.set(xlabel="layer", ylabel="top-1, %", title=self.title, xticks=self._layers)
        axes.grid(alpha=0.3)
        axes.legend()
        return figure_pixels(figure)

    @property
    def _layers(self) -> list[int]:
        return sorted({name.layer for name in self.top1})

    @property
    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(name.kind for name in self.top1))
