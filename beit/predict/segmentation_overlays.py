"""Class maps as images: as palette images, and over the image with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from beit.data.image_mask import Color
from beit.fonts import font_file

# h, w size of the image; K classes

_LINE, _MARGIN, _SWATCH, _FONT_SIZE = 16, 8, 12, 11  # pixels
_MAX_LINES = 30


def palette_image(classes: np.ndarray, palette: Sequence[Color]) -> Image.Image:
    """A palette image (mode P): its pixels are the class numbers, and image viewers show them in colors.

    Args:
        classes: class numbers `[h, w]`, 0 to 255.
        palette: color of each class.
    """
    image = Image.fromarray(classes.astype(np.uint8))
    image.putpalette([channel for color in palette for channel in color])
    return image


def overlay_classes(
    image: Image.Image,
    classes: np.ndarray,
    names: Sequence[str],
    palette: Sequence[Color],
    *,
    opacity: float = 0.5,
) -> Image.Image:
    """The image blended with the colors of its classes, and on its right a legend of the classes by area.

    Args:
        image: RGB.
        classes: class numbers `[h, w]`.
        names: of the K classes.
        palette: color of each class.
        opacity: of the colors, 0 to 1.
    """
    colors = np.asarray(palette, np.float32)[classes]
    mixed = np.asarray(image, np.float32) * (1 - opacity) + colors * opacity
    blended = Image.fromarray((mixed + 0.5).astype(np.uint8))
    return _beside(blended, _legend(class_areas(classes, names), palette))


def class_areas(classes: np.ndarray, names: Sequence[str]) -> list[dict[str, int | float | str]]:
    """The classes of a map, largest first: `class`, `name`, `pixels`, and `share` of the image (0 to 1).

    Args:
        classes: class numbers `[h, w]`.
        names: of the K classes.
    """
    counts = np.bincount(classes.ravel(), minlength=len(names))
    order = np.argsort(-counts, kind="stable")
    return [
        {
            "class": int(k),
            "name": names[k],
            "pixels": int(counts[k]),
            "share": round(float(counts[k] / classes.size), 6),
        }
        for k in order
        if counts[k]
    ]


def _legend(rows: Sequence[dict[str, int | float | str]], palette: Sequence[Color]) -> Image.Image:
    shown = rows[:_MAX_LINES]
    texts = [f"{row['name']}  {100 * float(row['share']):.1f} %" for row in shown]
    if len(rows) > len(shown):
        texts.append(f"and {len(rows) - len(shown)} more")
    fonts = [ImageFont.truetype(font_file(text), _FONT_SIZE) for text in texts]
    longest = max(font.getlength(text) for font, text in zip(fonts, texts, strict=True))
    width = math.ceil(longest) + _SWATCH + 3 * _MARGIN
    legend = Image.new("RGB", (width, len(texts) * _LINE + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(legend)
    for line, text in enumerate(texts):
        top = _MARGIN + line * _LINE
        if line < len(shown):
            box = (_MARGIN, top, _MARGIN + _SWATCH, top + _SWATCH)
            draw.rectangle(box, fill=palette[int(shown[line]["class"])], outline="black")
        middle = top + _SWATCH // 2
        draw.text((2 * _MARGIN + _SWATCH, middle), text, fill="black", font=fonts[line], anchor="lm")
    return legend


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    both = Image.new("RGB", (left.width + right.width, max(left.height, right.height)), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both
