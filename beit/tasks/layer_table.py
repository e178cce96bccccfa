"""Accuracy of each layer and kind of feature: as JSON, as a table, as a plot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beit.models.features import FeatureName


@dataclass(frozen=True)
class LayerTable:
    """Top-1 and top-5 in percent by feature.

    Args:
        title: what was measured, e.g. "linear probe of beit_base".
        facts: what else belongs into the JSON: weights, data, protocol.
        top1, top5: by feature.
        count: evaluated images.
    """

    title: str
    facts: Mapping[str, Any]
    top1: Mapping[FeatureName, float]
    top5: Mapping[FeatureName, float]
    count: int

    @classmethod
    def from_sums(
        cls, title: str, facts: Mapping[str, Any], names: Sequence[FeatureName], sums: Mapping[str, Any]
    ) -> LayerTable:
        """The table of sums `top1`, `top5` `[features]` and `count`."""
        count = int(sums["count"])
        tops = {
            key: {
                name: 100.0 * float(right) / count
                for name, right in zip(names, np.atleast_1d(sums[key]), strict=True)
            }
            for key in ("top1", "top5")
        }
        return cls(title, facts, tops["top1"], tops["top5"], count)

    @property
    def best(self) -> FeatureName:
        """The feature of the highest top-1; of equal ones the first."""
        return max(self.top1, key=lambda name: self.top1[name])

    def metrics(self) -> dict[str, float]:
        """The best feature's numbers, and the best top-1 of each kind."""
        best, metrics = self.best, {}
        metrics["top1"], metrics["top5"], metrics["best_layer"] = (
            self.top1[best],
            self.top5[best],
            float(best.layer),
        )
        for kind in self._kinds:
            metrics[f"top1_{kind}"] = max(value for name, value in self.top1.items() if name.kind == kind)
        return {**metrics, "count": float(self.count)}

    def text(self) -> str:
        """Aligned columns: a row per layer, top-1 per kind; the best is marked."""
        lines = [f"{self.title}: top-1 in percent, {self.count} images, best: {self.best}"]
        lines.append("layer" + "".join(kind.rjust(10) for kind in self._kinds))
        for layer in self._layers:
            cells = []
            for kind in self._kinds:
                name = FeatureName(layer, kind)
                cells.append(f"{self.top1[name]:.2f}{'*' if name == self.best else ' '}".rjust(10))
            lines.append(str(layer).rjust(5) + "".join(cells))
        return "\n".join(lines) + "\n"

    def write(self, folder: Path, stem: str) -> dict[str, np.ndarray]:
        """Write `<stem>.json`, `<stem>.txt` and, where matplotlib is installed, `<stem>.png`; the plot as a picture."""
        rows = [
            {"layer": name.layer, "kind": name.kind, "top1": self.top1[name], "top5": self.top5[name]}
            for name in self.top1
        ]
        result = {"title": self.title, **self.facts, "count": self.count, "best": str(self.best)}
        (folder / f"{stem}.json").write_text(
            json.dumps({**result, "features": rows}, indent=2) + "\n", encoding="utf-8"
        )
        (folder / f"{stem}.txt").write_text(self.text(), encoding="utf-8")
        try:
            picture = self._plot(folder / f"{stem}.png")
        except ImportError:  # of the extra "demo"; the numbers are written
            return {}
        return {self.title: picture}

    def _plot(self, file: Path) -> np.ndarray:
        # Here, because only this needs it. Figure without pyplot: no window, no global state.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4.5), dpi=120, layout="tight")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for kind, marker in zip(self._kinds, "osd", strict=False):
            axes.plot(
                self._layers,
                [self.top1[FeatureName(layer, kind)] for layer in self._layers],
                marker=marker,
                label=kind,
            )
        axes.set(xlabel="layer", ylabel="top-1, %", title=self.title, xticks=self._layers)
        axes.grid(alpha=0.3)
        axes.legend()
        canvas.draw()
        figure.savefig(file)
        return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])

    @property
    def _layers(self) -> list[int]:
        return sorted({name.layer for name in self.top1})

    @property
    def _kinds(self) -> list[str]:
        return list(dict.fromkeys(name.kind for name in self.top1))
