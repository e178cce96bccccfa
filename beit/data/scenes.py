"""Demo data for segmentation: drawn landscapes with sky, hills, water, houses and trees, and their label maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from beit.files import refuse_other_texts, write_text

CLASS_NAMES = ("sky", "hill", "water", "house", "tree")
PALETTE = ((110, 170, 255), (120, 200, 60), (0, 70, 200), (220, 60, 50), (0, 110, 40))
IMAGES = {"train": 240, "val": 60}
SIZE = (128, 96)  # width, height in pixels

_SKY, _HILL, _WATER, _HOUSE, _TREE = range(len(CLASS_NAMES))


def write_scenes(folder: Path, *, images: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Write `images/{train,val}/*.png`, `masks/{train,val}/*.png`, `class_names.txt` and `palette.txt` into `folder`.

    All images are drawn from random numbers.

    Args:
        folder: to write to.
        images: number of images of each split; None for `IMAGES`.
        seed: of the random numbers.

    Raises:
        ValueError: as `refuse_other_texts`.
    """
    texts = {
        folder / "class_names.txt": "".join(f"{name}\n" for name in CLASS_NAMES),
        folder / "palette.txt": "".join(f"{red} {green} {blue}\n" for red, green, blue in PALETTE),
    }
    refuse_other_texts(texts)
    for offset, (split, count) in enumerate((images or IMAGES).items()):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, labels = draw_scene(np.random.default_rng([seed, offset, number]))
            image.save(folder / "images" / split / f"scene_{number:04d}.png")
            labels.save(folder / "masks" / split / f"scene_{number:04d}.png")
    for path, text in texts.items():
        write_text(path, text)
    return folder


def draw_scene(rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """An image (RGB) and its label map (mode L), both of `SIZE`."""
    width, height = SIZE
    image, labels = Image.new("RGB", SIZE), Image.new("L", SIZE, _SKY)
    draw_image, draw_labels = ImageDraw.Draw(image), ImageDraw.Draw(labels)

    def shape(points: Sequence[tuple[float, float]], color: tuple[int, ...], label: int) -> None:
        draw_image.polygon(points, fill=color)
        draw_labels.polygon(points, fill=label)

    _draw_sky(draw_image, rng)
    x = np.linspace(0, width, 40)
    ground = height * rng.uniform(0.3, 0.6) + height * 0.12 * np.sin(
        x / rng.uniform(10, 25) + rng.uniform(0, 6)
    )
    edge = list(zip(x.tolist(), ground.tolist(), strict=True))
    shape([*edge, (width, height), (0, height)], _color(rng, (130, 150, 70), 40), _HILL)
    if rng.random() < 0.7:
        shore = height * rng.uniform(0.7, 0.9)
        slope = rng.uniform(-8, 8)
        points = [(0, shore - slope), (width, shore + slope), (width, height), (0, height)]
        shape(points, _color(rng, (50, 90, 140), 35), _WATER)
    for _ in range(rng.integers(1, 4)):
        left, size = rng.uniform(0, width - 20), rng.uniform(12, 28)
        base = float(np.interp(left, x, ground)) + size * rng.uniform(0.4, 0.8)
        right, eaves = left + size, base - size * 0.7
        walls = [(left, base), (right, base), (right, eaves), (left, eaves)]
        roof = [(left - 2, eaves), (right + 2, eaves), (left + size / 2, base - size)]
        shape(walls, _color(rng, (200, 180, 160), 45), _HOUSE)
        shape(roof, _color(rng, (150, 60, 50), 40), _HOUSE)
    for _ in range(rng.integers(2, 6)):
        left, size = rng.uniform(0, width), rng.uniform(8, 18)
        base = float(np.interp(left, x, ground)) + size * rng.uniform(0.5, 1.2)
        crown = [(left - size / 2, base), (left + size / 2, base), (left, base - 1.8 * size)]
        shape(crown, _color(rng, (30, 80, 40), 25), _TREE)
    noise = rng.normal(0, rng.uniform(4, 14), (height, width, 3))
    pixels = np.clip(np.asarray(image.filter(ImageFilter.GaussianBlur(0.6))) + noise, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8)), labels


def _draw_sky(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Fill an image of `SIZE` with a vertical gradient between two random colors."""
    width, height = SIZE
    top, bottom = _color(rng, (90, 130, 190), 50), _color(rng, (190, 190, 200), 50)
    for row in range(height):
        share = row / height
        color = tuple(round(a + share * (b - a)) for a, b in zip(top, bottom, strict=True))
        draw.line([(0, row), (width, row)], fill=color)


def _color(rng: np.random.Generator, mean: tuple[int, int, int], spread: int) -> tuple[int, ...]:
    return tuple(np.clip(rng.normal(mean, spread / 2), 0, 255).astype(int).tolist())
