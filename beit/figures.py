"""Figures with matplotlib, and colors for numbered classes."""

from __future__ import annotations

import colorsys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from beit.files import replacing
from beit.fonts import families

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 100


@dataclass(frozen=True)
class Tile:
    """One image of a figure: `pixels` uint8 `[H, W, 3]`, and a title, which is red where `is_wrong`."""

    pixels: np.ndarray
    title: str = ""
    is_wrong: bool = False


def make_figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A matplotlib figure and its axes `[rows, columns]`, outside of pyplot: no display, no window, nothing to close.

    Args:
        rows, columns: of axes.
        width, height: of the figure, inches.
    """
    figure = _figure_class()(figsize=(width, height), dpi=_DPI, layout="tight")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a matplotlib figure in the format of the file's ending, whole or not at all; the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        figure.savefig(file, dpi=_DPI, format=path.suffix.removeprefix("."))
    return path


def save_image(image: Image.Image, path: Path) -> Path:
    """Write a PNG file, whole or not at all; the path."""
    with replacing(path) as file:
        image.save(file, format="PNG")
    return path


def draw_tiles(tiles: Sequence[Tile], *, columns: int, title: str = "", side: float = 1.5) -> Figure:
    """A figure of images in rows.

    Args:
        tiles: the images, row by row.
        columns: images in a row.
        title: of the whole figure.
        side: width and height of an image, in inches.
    """
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    lines = max(2, *(tile.title.count("\n") + 1 for tile in tiles))
    title_height = 0.3 + 0.2 * (title.count("\n") + 1) if title else 0.0
    height = (side + 0.15 * lines) * rows + title_height
    figure, axes = make_figure(rows, columns, side * columns, height)
    for axis in axes.flat:
        axis.axis("off")
    for axis, tile in zip(axes.flat, tiles, strict=False):
        axis.imshow(tile.pixels)
        axis.set_title(tile.title, fontsize=8, color="red" if tile.is_wrong else "black")
    # At 0.1 inches from the top, where the tight layout reserves its place, however tall the figure is.
    figure.suptitle(title, y=1 - 0.1 / height)
    return figure


def end_of(text: str, length: int) -> str:
    """The last characters of a text, after an ellipsis if some are left out; for names over images."""
    return text if len(text) <= length else f"…{text[1 - length :]}"


def figure_pixels(figure: Figure) -> np.ndarray:
    """A figure as pixels, uint8 `[H, W, 3]`, without a window and without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


@cache
def _figure_class() -> type[Figure]:
    from matplotlib.figure import Figure  # here, because the import takes a second
    from matplotlib.text import Text

    class FigureInAnyScript(Figure):
        """A figure that chooses fonts with the characters of its texts whenever it is drawn."""

        _is_measured = False

        def draw(self, renderer: Any) -> None:
            with warnings.catch_warnings():
                # `families` warns once, and says what to do.
                warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from", UserWarning)
                if not self._is_measured:
                    self._choose_fonts()
                super().draw(renderer)

        def _choose_fonts(self) -> None:
            self._is_measured = True
            try:
                self.draw_without_rendering()  # creates the labels of the axes
            finally:
                self._is_measured = False
            texts = [artist for artist in self.findobj(Text) if artist.get_text()]
            names = families(text.get_text() for text in texts)
            for text in texts:
                text.set_fontfamily(names)

    return FigureInAnyScript


def index_color(index: int) -> tuple[int, int, int]:
    """A color (0 to 255) for each class or code number; those of neighboring numbers differ strongly.

    Hues are golden-ratio steps apart, brightness has three levels.
    """
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803399 % 1.0, 0.75, (1.0, 0.8, 0.6)[index % 3])
    return round(255 * red), round(255 * green), round(255 * blue)
