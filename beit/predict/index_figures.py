"""Figures of an index of images: the images nearest to a query, and a map on which similar images lie together."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from beit.data.image_input import ImageInput
from beit.figures import Tile, draw_tiles, end_of, index_color, make_figure
from beit.predict.image_index import ImageIndex
from beit.predict.inputs import list_inputs
from beit.tables import write_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEAREST_TITLES = ("query", "rank", "image", "similarity")
"""Of the table of `write_nearest`."""
_THUMBNAIL = 96  # pixels, of the longer side
_NAME_LENGTH = 22  # characters of a file name that fit over an image
_MAX_FOLDERS = 20  # more of them would have colors that look alike


def draw_nearest(index: ImageIndex, images: ImageInput | Sequence[ImageInput], topk: int = 5) -> Figure:
    """One row per query: its image, and the nearest images of an index with the cosine of the features.

    Examples:
        >>> index = beit.open_index("output/run", ["pictures"], "pictures.npz")
        >>> beit.draw_nearest(index, "photo.jpg").savefig("nearest.png")

    Args:
        index: of `open_index`.
        images: one or more queries, as `extract_feat` takes them.
        topk: images for each query, 1 or more.

    Raises:
        ValueError: `topk` is not positive.
        ImageError, FileNotFoundError: a query or a drawn image cannot be read.
    """
    tiles = []
    queries = list_inputs(images)[0]
    for query, best in zip(queries, index.nearest(queries, topk), strict=True):
        name = f"\n{_short(query)}" if isinstance(query, str | Path) else ""
        tiles.append(Tile(_thumbnail(index, query), f"query{name}"))
        for found in best:
            if not Path(found["image"]).exists():
                raise FileNotFoundError(
                    f"{found['image']} is in the index, but not on the disk; name the images again (--among) to update it"
                )
            title = f"{found['similarity']:.3f}\n{_short(found['image'])}"
            tiles.append(Tile(_thumbnail(index, found["image"]), title))
    return draw_tiles(tiles, columns=1 + min(topk, len(index.files)), side=1.6)


def write_nearest(
    index: ImageIndex, images: ImageInput | Sequence[ImageInput], path: Path, topk: int = 5
) -> Path:
    """Write the images nearest to each query as CSV: query, rank, image, similarity; its path.

    Args:
        index, images, topk: as for `draw_nearest`.
        path: file to write.
    """
    queries = list_inputs(images)[0]
    rows = (
        (query, rank, found["image"], f"{found['similarity']:.6f}")
        for query, best in zip(queries, index.nearest(queries, topk), strict=True)
        for rank, found in enumerate(best, start=1)
    )
    return write_table(path, NEAREST_TITLES, rows)


def draw_features(index: ImageIndex, method: Literal["pca", "tsne"] = "pca") -> Figure:
    """The images of an index as thumbnails on a plane: similar features lie together. A matplotlib figure.

    Images from several folders, up to 20, have frames in the color of their folder, which is the class in a tree of class
    folders.

    Examples:
        >>> beit.draw_features(beit.open_index("output/run", ["pictures"])).savefig("features.png")

    Args:
        index: of `open_index`.
        method: "pca" for the two principal components of the features, "tsne" for scikit-learn's t-SNE with its defaults,
            which needs the extra `tsne`. The perplexity is 30, or a third of the images if these are fewer than 90.

    Raises:
        ValueError: fewer than three images, an unknown method, or scikit-learn is not installed.
        ImageError: an image cannot be read.
    """
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage
    from matplotlib.patches import Patch

    if len(index.files) < 3:
        raise ValueError(f"a map needs three or more images, the index has {len(index.files)}")
    points, caption = place(index.features, method)
    folders = list(dict.fromkeys(file.parent for file in index.files))
    is_colored = 1 < len(folders) <= _MAX_FOLDERS
    colors = {folder: f"#{bytes(index_color(number)).hex()}" for number, folder in enumerate(folders)}
    figure, axes = make_figure(1, 1, 10, 10)
    axis = axes[0, 0]
    zoom = min(0.6, 3.5 / np.sqrt(len(index.files)))
    for file, point in zip(index.files, points, strict=True):
        frame = {"edgecolor": colors[file.parent], "linewidth": 2.0} if is_colored else {"linewidth": 0.0}
        image = OffsetImage(_thumbnail(index, file), zoom=zoom)
        axis.add_artist(AnnotationBbox(image, tuple(point), pad=0.1, bboxprops=frame))
    # The limits of an axis do not follow from what is annotated.
    axis.update_datalim(points)
    axis.margins(0.08)
    axis.autoscale_view()
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(f"{len(index.files)} images, {caption}")
    if is_colored:
        handles = [Patch(color=colors[folder], label=folder.name) for folder in folders]
        axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def require_method(method: str) -> None:
    """Refuse a method of `draw_features`.

    Raises:
        ValueError: it is unknown, or scikit-learn is not installed.
    """
    if method not in ("pca", "tsne"):
        raise ValueError(f'method={method!r}; expected "pca" or "tsne"')
    if method == "tsne" and find_spec("sklearn") is None:
        raise ValueError(
            'scikit-learn is not installed, which computes t-SNE: pip install "beit-paddle[tsne]", or take pca'
        )


def place(features: np.ndarray, method: str) -> tuple[np.ndarray, str]:
    """Points `[n, 2]` for features `[n, D]`, and a line that says how they were found. Raises as `require_method`."""
    require_method(method)
    if method == "pca":
        centered = features - features.mean(0)
        left, values, _ = np.linalg.svd(centered, full_matrices=False)
        share = (values[:2] ** 2).sum() / max((values**2).sum(), np.finfo(np.float32).tiny)
        return left[:, :2] * values[:2], f"two principal components ({100 * share:.0f} % of the variance)"
    from sklearn.manifold import TSNE

    perplexity = min(30.0, len(features) / 3)
    points = TSNE(perplexity=perplexity, random_state=0).fit_transform(features)
    return points, f"t-SNE, perplexity {perplexity:.0f}"


def _short(file: str | Path) -> str:
    """The end of a path: the name of the file with its folder."""
    return end_of("/".join(Path(file).parts[-2:]), _NAME_LENGTH)


def _thumbnail(index: ImageIndex, source: ImageInput) -> np.ndarray:
    image = index.predictor.open(source)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BICUBIC)
    return np.asarray(image)
