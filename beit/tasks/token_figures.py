"""Images and figures of the tokens of a tokenizer, uint8 `[height, width, 3]`."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import paddle
from PIL import Image, ImageDraw

from beit.figures import figure_pixels, index_color
from beit.tasks.previews import MASK_GRAY, to_uint8

# B images, H, W their size, h, w token grid, K codes

_RED, _WHITE = (255, 40, 40), 255
_GAP = 2  # pixels between patches in `draw_code_patches`
_CODEBOOK_SIZE = (6.4, 3.2)  # inches, at 100 dots per inch


class TokenDecoder(Protocol):
    """Turns token ids `[B, L]` of a grid (h, w) into images `[B, 3, H, W]` in [0, 1]."""

    def decode(self, ids: paddle.Tensor, grid_size: tuple[int, int], /) -> paddle.Tensor: ...


class MeanPatches:
    """A decoder for every tokenizer: a code becomes the mean of the patches that have it.

    Among decoders that draw each code by itself, it has the least squared error on the patches added. A code without
    patches becomes gray.

    Args:
        num_codes: K.
    """

    def __init__(self, num_codes: int) -> None:
        self._counts = np.zeros(num_codes, np.int64)
        self._sums: np.ndarray | None = None  # [K, patch height, patch width, 3]

    def add(self, images: np.ndarray, ids: np.ndarray) -> None:
        """Count the patches of images.

        Args:
            images: uint8 `[B, H, W, 3]`.
            ids: code of each patch, `[B, h, w]`.
        """
        count, h, w = ids.shape
        height, width = images.shape[1] // h, images.shape[2] // w
        patches = images.reshape(count, h, height, w, width, 3).swapaxes(2, 3).reshape(-1, height, width, 3)
        if self._sums is None:
            self._sums = np.zeros((len(self._counts), height, width, 3), np.float32)
        np.add.at(self._sums, ids.ravel(), patches)
        self._counts += np.bincount(ids.ravel(), minlength=len(self._counts))

    def decode(self, ids: paddle.Tensor, grid_size: tuple[int, int], /) -> paddle.Tensor:
        """Images `[B, 3, H, W]` in [0, 1] of token ids `[B, L]`, row-major in a grid (h, w)."""
        assert self._sums is not None  # patches were added
        means = self._sums / np.maximum(self._counts, 1)[:, None, None, None]
        means[self._counts == 0] = MASK_GRAY
        h, w = grid_size
        patches = means[ids.numpy().reshape(-1, h, w)]  # [B, h, w, patch height, patch width, 3]
        count, *_, height, width, _ = patches.shape
        images = patches.transpose(0, 5, 1, 3, 2, 4).reshape(count, 3, h * height, w * width)
        return paddle.to_tensor(images / 255)


def draw_code_map(image: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The image, the map of its codes in colors, and the mean of both, side by side: `[H, 3 W, 3]`.

    A code has the same color in every map.

    Args:
        image: uint8 `[H, W, 3]`.
        ids: code of each patch, `[h, w]`.
    """
    size = (image.shape[1], image.shape[0])
    colors = Image.fromarray(code_colors(ids)).resize(size, Image.Resampling.NEAREST)
    blend = Image.blend(Image.fromarray(image), colors, 0.5)
    return np.concatenate([image, np.asarray(colors), np.asarray(blend)], axis=1)


def code_colors(ids: np.ndarray) -> np.ndarray:
    """RGB color of each code number, uint8 `[..., 3]` for ids of shape `[...]`."""
    codes, inverse = np.unique(ids, return_inverse=True)
    table = np.array([index_color(code) for code in codes.tolist()], np.uint8)
    return table[inverse.reshape(ids.shape)]


def draw_code_patches(
    images: np.ndarray, ids: np.ndarray, code: int, *, count: int = 64, columns: int = 8
) -> np.ndarray:
    """The first `count` patches with a given code, each framed in red inside a margin of one patch of its image.

    Args:
        images: uint8 `[B, H, W, 3]`.
        ids: code of each patch, `[B, h, w]`.
        code: number of the code.
        count: largest number of patches.
        columns: patches per row.

    Raises:
        ValueError: no patch of the images has the code; the message names frequent codes.
    """
    positions = np.argwhere(ids == code)[:count]
    if not len(positions):
        common = np.argsort(-np.bincount(ids.ravel()))[:5].tolist()
        raise ValueError(f"no patch of the {len(images)} images has code {code}; frequent ones are {common}")
    height, width = images.shape[1] // ids.shape[1], images.shape[2] // ids.shape[2]
    padded = np.pad(images, ((0, 0), (height, height), (width, width), (0, 0)), mode="edge")
    tiles = []
    for image, row, column in positions.tolist():
        top, left = row * height, column * width
        tile = Image.fromarray(padded[image, top : top + 3 * height, left : left + 3 * width])
        ImageDraw.Draw(tile).rectangle((width - 1, height - 1, 2 * width, 2 * height), outline=_RED)
        tiles.append(np.pad(np.asarray(tile), ((0, _GAP), (0, _GAP), (0, 0)), constant_values=_WHITE))
    tiles += [np.full_like(tiles[0], _WHITE)] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[first : first + columns], axis=1) for first in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def draw_codebook(counts: np.ndarray) -> np.ndarray:
    """A plot of how often each code is used, the most frequent first, on a logarithmic scale: `[320, 640, 3]`.

    Args:
        counts: number of uses `[K]`.
    """
    from matplotlib.figure import Figure  # here, because the import takes half a second

    counts = np.sort(np.asarray(counts, np.float64))[::-1]
    used = int((counts > 0).sum())
    figure = Figure(figsize=_CODEBOOK_SIZE, dpi=100, layout="tight")
    axes = figure.add_subplot()
    axes.stairs(counts, fill=True, baseline=0.5)
    axes.set_yscale("log")
    axes.set(xlim=(0, len(counts)), ylim=(0.5, max(2 * counts[0], 10)))
    axes.set(xlabel="codes, most frequent first", ylabel="uses")
    axes.set_title(f"{used:,} of {len(counts):,} codes used ({100 * used / len(counts):.1f} %)")
    axes.grid(axis="y", alpha=0.3)
    return figure_pixels(figure)


def draw_reconstructions(images: np.ndarray, rebuilt: np.ndarray) -> np.ndarray:
    """Original images in a row, and below them what the tokenizer's decoder makes of their tokens: `[2 h, B w, 3]`.

    Args:
        images: uint8 `[B, H, W, 3]`, resized to h x w.
        rebuilt: decoded images `[B, 3, h, w]` in [0, 1]; here h and w are pixels.
    """
    pixels = to_uint8(rebuilt)
    size = (pixels.shape[2], pixels.shape[1])
    scaled = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in images]
    return np.concatenate([np.concatenate(scaled, axis=1), np.concatenate(list(pixels), axis=1)])
