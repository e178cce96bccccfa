"""Figures on disk, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_DPI = 100


@dataclass(frozen=True)
class Tile:
    """A picture uint8 `[H, W, 3]` with a title, in red where it tells of a mistake."""

    pixels: np.ndarray
    title: str = ""
    is_wrong: bool = False


def pyplot() -> Any:
    """matplotlib's drawing functions, without a screen.

    Raises:
        ValueError: matplotlib is not installed; the message says how to get it.
    """
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "drawing needs matplotlib, which is not installed: python -m pip install matplotlib"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure as PNG and forget it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)
    pyplot().close(figure)
    return path


def draw_tiles(
    tiles: Sequence[Tile], path: Path, *, columns: int, title: str = "", side: float = 1.5
) -> Path:
    """Write tiles in rows, `side` inches each; the path."""
    plt = pyplot()
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    size = (side * columns, (side + 0.3) * rows + (0.5 if title else 0.0))
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, tile in zip(axes.flat, tiles, strict=False):
        axis.imshow(tile.pixels)
        axis.set_title(tile.title, fontsize=8, color="red" if tile.is_wrong else "black")
    figure.suptitle(title)
    figure.tight_layout()
    return save_figure(figure, path)
