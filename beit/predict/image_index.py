"""Features of many images, computed once and kept in an index file, and the images nearest to a query."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from beit.data.image_input import ImageInput
from beit.data.index_cache import joined, names_of, read_table
from beit.files import replacing, require_writable, sha256_of, sha256_of_arrays
from beit.logging import progress
from beit.predict.classifier import Classifier
from beit.predict.inference import Model, extract_feat, load_predictor, require_classifier
from beit.predict.inputs import find_images

# n images, D channels of a feature

_MODEL, _NAMES, _DIGESTS, _FEATURES = "model", "names", "digests", "features"
"""Arrays of an index file (`.npz`): digest of the model, absolute paths, SHA-256 of each file, features `[n, D]`."""
_BYTES = np.dtype(np.uint8)
_FORMS = {
    _MODEL: (_BYTES, 1),
    _NAMES: (_BYTES, 1),
    _DIGESTS: (_BYTES, 2),
    _FEATURES: (np.dtype(np.float32), 2),
}
"""Type of each, and number of axes."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageIndex:
    """Images with their features under one model; `open_index` makes it.

    `features` is float32 `[n, D]`, of length 1, in the order of `files`.

    Examples:
        >>> beit.open_index("output/run", "pictures").features.shape
    """

    predictor: Classifier
    files: tuple[Path, ...]
    features: np.ndarray

    def nearest(self, images: ImageInput | Sequence[ImageInput], topk: int = 5) -> list[list[dict[str, Any]]]:
        """For each query image the most similar images of the index, the nearest first.

        Each has `image`, its path, and `similarity`, the cosine of the two features. A query that is in the index is its
        own nearest image.

        Args:
            images: one or more queries, as `extract_feat` takes them.
            topk: images for each query, 1 or more.

        Raises:
            ValueError: `topk` is not positive.
            ImageError, FileNotFoundError: a query cannot be read.
        """
        if topk < 1:
            raise ValueError(f"topk={topk}; expected 1 or more")
        similarity = _unit(np.atleast_2d(extract_feat(self.predictor, images))) @ self.features.T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :topk]
        return [
            [{"image": str(self.files[k]), "similarity": float(row[k])} for k in best]
            for row, best in zip(similarity, order, strict=True)
        ]


def open_index(
    model: Model,
    images: str | Path | Sequence[str | Path] | None = None,
    file: str | Path | None = None,
    *,
    batch_size: int = 16,
) -> ImageIndex:
    """The features of images under a model, of which an index file keeps those that were computed before.

    Only images that the file does not have are computed: images are compared by their SHA-256, so that renamed files keep
    their features. Features of another model (weights, preprocessing or input size) are computed again. The file is then
    written with the images given. An image that cannot be read is left out with a warning.

    Examples:
        >>> index = beit.open_index("output/run", ["pictures"], "pictures.npz")
        >>> index.nearest("photo.jpg")[0][0]["image"]

    Args:
        model: a classifier or an encoder, as `load_predictor` takes it.
        images: file, folder or pattern, or several of them; None for those of the index file, which are not read again.
        file: the index file (`.npz`); it is created if it does not exist. None keeps nothing.
        batch_size: images at a time.

    Raises:
        FileNotFoundError: images are None and the file does not exist; or as `find_images`.
        ValueError: a batch size below 1; neither images nor file; the file is not an index, or images are None and it has
            features of another model; no image can be read.
        OSError: the file cannot be written.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}; expected 1 or more")
    if images is None and file is None:
        raise ValueError("name the images, or an index file that has their features")
    path = None if file is None else Path(file)
    if path is not None and images is not None:
        require_writable(path)
    stored = _read(path) if path is not None and path.exists() else None
    if images is None and stored is None:
        raise FileNotFoundError(f"the index {file} does not exist; name the images to make it")
    sources = [images] if isinstance(images, str | Path) else images or ()
    files = list(dict.fromkeys(found.absolute() for source in sources for found in find_images(source)))
    predictor = require_classifier(load_predictor(model), "features")
    identity = _identity(predictor)
    if images is None:
        assert stored is not None  # checked above
        if bytes(stored[_MODEL]) != identity:
            raise ValueError(
                f"{file} has the features of another model; name its images to compute them again"
            )
        return ImageIndex(predictor, tuple(map(Path, names_of(stored[_NAMES]))), stored[_FEATURES])
    known: dict[bytes, np.ndarray] = {}
    if stored is not None and bytes(stored[_MODEL]) == identity:
        known = dict(zip(map(bytes, stored[_DIGESTS]), stored[_FEATURES], strict=True))
    digests = [bytes.fromhex(sha256_of(found)) for found in files]
    missing = {digest: found for digest, found in zip(digests, files, strict=True) if digest not in known}
    known |= _compute(predictor, missing, batch_size)
    kept = {found: digest for found, digest in zip(files, digests, strict=True) if digest in known}
    if not kept:
        raise ValueError(f"none of the {len(files)} images can be read")
    features = np.stack([known[digest] for digest in kept.values()])
    if path is not None:
        _write(path, identity, kept, features)
    return ImageIndex(predictor, tuple(kept), features)


def _compute(predictor: Classifier, missing: dict[bytes, Path], batch_size: int) -> dict[bytes, np.ndarray]:
    """Features of length 1 by digest, without those of the images that cannot be read."""
    pairs = list(missing.items())
    chunks = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    computed: dict[bytes, np.ndarray] = {}
    for chunk in progress(chunks, len(chunks), "features", rank=0):
        opened = {}
        for digest, found in chunk:
            try:
                opened[digest] = predictor.open(found)
            except ValueError as error:  # ImageError is one
                warnings.warn(f"{error}; it is not in the index", stacklevel=3)
        if opened:
            rows = _unit(predictor.features(list(opened.values())))
            computed |= dict(zip(opened, rows, strict=True))
    return computed


def _identity(predictor: Classifier) -> bytes:
    """Digest of all that the features depend on."""
    weights = ((name, tensor.numpy()) for name, tensor in predictor.model.state_dict().items())
    settings = f"{sha256_of_arrays(weights)} {predictor.preprocessing} {predictor.image_size}"
    return hashlib.sha256(settings.encode()).digest()


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        found = read_table(path)
    except (ValueError, IsADirectoryError):
        found = {}
    forms = {name: (array.dtype, array.ndim) for name, array in found.items()}
    if (
        forms != _FORMS
        or not len(names_of(found[_NAMES])) == len(found[_DIGESTS]) == len(found[_FEATURES])
        or found[_DIGESTS].shape[1] != hashlib.sha256().digest_size
        or not np.isfinite(found[_FEATURES]).all()
    ):
        raise ValueError(
            f"{path} is not an index of images, or it is damaged; name another file, or remove it"
        )
    return found


def _write(path: Path, identity: bytes, digests: dict[Path, bytes], features: np.ndarray) -> None:
    arrays = {
        _MODEL: np.frombuffer(identity, np.uint8),
        _NAMES: joined([str(found) for found in digests]),
        _DIGESTS: np.frombuffer(b"".join(digests.values()), np.uint8).reshape(len(digests), -1),
        _FEATURES: features,
    }
    with replacing(path) as out:
        np.savez(out, **arrays)  # type: ignore[arg-type]  # NumPy's annotation has no room for names


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)
