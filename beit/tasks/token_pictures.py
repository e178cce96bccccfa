"""Pictures of what a tokenizer does, uint8 `[height, width, 3]`."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw

# B images, H, W their size, h, w token grid, K codes

_GOLDEN = 0.618033988749895  # of a turn: hues of neighboring code numbers lie far apart
_PAPER, _INK, _GRID = (255, 255, 255), (40, 70, 120), (210, 210, 210)


def draw_code_map(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The image, beside it each patch in the color of its code, and both blended: `[H, 3 W, 3]`.

    A code has the same color in every picture.

    Args:
        image: uint8 `[H, W, 3]`.
        ids: `[h, w]`.
    """
    size = (image.shape[1], image.shape[0])
    colors = Image.fromarray(code_colors(ids)).resize(size, Image.Resampling.NEAREST)
    blend = Image.blend(Image.fromarray(image), colors, 0.5)
    return np.concatenate([image, np.asarray(colors), np.asarray(blend)], axis=1)


def code_colors(ids: np.ndarray) -> np.ndarray:
    """RGB of each code number, uint8 `[…, 3]`."""
    codes, places = np.unique(ids, return_inverse=True)
    table = [
        colorsys.hsv_to_rgb(code * _GOLDEN % 1.0, 0.55 + 0.15 * (code % 4), 0.95 - 0.2 * (code % 3))
        for code in codes.tolist()
    ]
    return np.rint(255 * np.asarray(table)).astype(np.uint8)[places.reshape(ids.shape)]


def draw_code_patches(
    images: np.ndarray, ids: np.ndarray, code: int, *, count: int = 64, columns: int = 8
) -> np.ndarray:
    """The first `count` patches that have a code, each framed in its surroundings of one patch all round.

    Args:
        images: uint8 `[B, H, W, 3]`.
        ids: `[B, h, w]`.
        code: number of the code.
        columns: patches a row.
    Raises:
        ValueError: no patch of the images has the code; some that occur are named.
    """
    places = np.argwhere(ids == code)[:count]
    if not len(places):
        common = np.argsort(-np.bincount(ids.ravel()))[:5].tolist()
        raise ValueError(f"no patch of the {len(images)} images has code {code}; frequent ones are {common}")
    height, width = images.shape[1] // ids.shape[1], images.shape[2] // ids.shape[2]
    margins = ((0, 0), (height, height), (width, width), (0, 0))
    padded = np.pad(images, margins, mode="edge")
    tiles = []
    for image, row, column in places.tolist():
        top, left = row * height, column * width
        tile = Image.fromarray(padded[image, top : top + 3 * height, left : left + 3 * width])
        ImageDraw.Draw(tile).rectangle((width - 1, height - 1, 2 * width, 2 * height), outline=(255, 40, 40))
        tiles.append(np.pad(np.asarray(tile), ((0, 2), (0, 2), (0, 0)), constant_values=255))
    empty = np.full_like(tiles[0], 255)
    tiles += [empty] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def draw_codebook(counts: np.ndarray, *, size: tuple[int, int] = (320, 640)) -> np.ndarray:
    """How often each code is used, the most frequent first, on a logarithmic scale; unused codes are white.

    Args:
        counts: uses `[K]`.
        size: (height, width) in pixels.
    """
    height, width = size
    counts = np.sort(np.asarray(counts, np.float64))[::-1]
    used, top = int((counts > 0).sum()), max(float(counts[0]), 1.0)
    picture = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(picture)
    left, upper, right, lower = 60, 30, width - 10, height - 25
    scale = (lower - upper) / max(np.log10(10 * top), 1.0)
    for decade in range(int(np.log10(top)) + 1):
        y = lower - scale * (decade + 1)
        draw.line((left, y, right, y), fill=_GRID)
        draw.text((4, y - 6), f"{10**decade:,}", fill=_INK)
    for x in range(left, right):
        count = counts[(x - left) * len(counts) // (right - left)]
        if count > 0:
            draw.line((x, lower, x, lower - scale * np.log10(10 * count)), fill=_INK)
    draw.rectangle((left, upper, right, lower), outline=_INK)
    draw.text(
        (left, 8), f"{used:,} of {len(counts):,} codes used ({100 * used / len(counts):.1f} %)", fill=_INK
    )
    draw.text((left, height - 18), "codes, most frequent first", fill=_INK)
    return np.asarray(picture)


def draw_reconstructions(images: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """Originals above what a tokenizer's decoder makes of their tokens: `[2 h, B w, 3]`.

    Args:
        images: uint8 `[B, H, W, 3]`.
        rebuilt: `[B, 3, h, w]` in [0, 1]; the originals are scaled to that size.
    """
    pixels = np.rint(255 * rebuilt.clip(0.0, 1.0)).astype(np.uint8).transpose(0, 2, 3, 1)
    size = (pixels.shape[2], pixels.shape[1])
    scaled = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
    return np.concatenate([np.concatenate(scaled, axis=1), np.concatenate(list(pixels), axis=1)])
