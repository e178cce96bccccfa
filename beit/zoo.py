"""Published checkpoints by name: what there is, and a model with its weights."""

from __future__ import annotations

import difflib
import fnmatch
import logging
from pathlib import Path

from beit.beit import Beit, build_beit
from beit.checkpoint.class_names import PUBLISHED_LISTS
from beit.checkpoint.download import fetch
from beit.checkpoint.load import load_pretrained
from beit.config import get_config
from beit.published import PUBLISHED, Published

_LOGGER = logging.getLogger(__name__)


def list_models(pattern: str = "*") -> list[str]:
    """Names of published checkpoints that fit a shell pattern, e.g. `beitv2_*`."""
    return sorted(name for name in PUBLISHED if fnmatch.fnmatchcase(name, pattern))


def published(name: str) -> Published:
    """What is known of a published checkpoint: form, config, preprocessing, accuracy, source, licence.

    Raises:
        ValueError: no such name; the nearest are given.
    """
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=3, cutoff=0.5)
        hint = f"; similar: {', '.join(near)}" if near else ""
        raise ValueError(
            f"no published checkpoint is called {name!r}{hint}. beit.list_models() gives all names"
        )
    return PUBLISHED[name]


def get_model(name: str, pretrained: bool | str | Path = False, num_classes: int | None = None) -> Beit:
    """The network of a published checkpoint, with its weights if asked for. What was loaded is logged.

    Args:
        name: from `list_models()`. A pre-training checkpoint gives the classifier that starts from its encoder.
        pretrained: True downloads the file into the cache (`beit.checkpoint.download`); a path takes that file.
        num_classes: another number of classes, whose head is new; 0 for none.
    Raises:
        ValueError: unknown name, or a kind of network that is no classifier; the weights do not fit.
        DownloadError: the file could not be fetched; the message says where to put it.
    """
    entry = published(name)
    if entry.config is None:
        raise ValueError(
            f"{name} is a {entry.kind} checkpoint; get_model builds classifiers. Its file: {entry.page}"
        )
    options = list(entry.options)
    if num_classes is not None:
        options += ["MODEL.NUM_CLASSES", num_classes]
    model = build_beit(get_config(entry.config, options))
    if pretrained is not False:
        path = fetch_published(entry) if pretrained is True else Path(pretrained)
        _LOGGER.info("%s", load_pretrained(model, path))
        if model.class_names is None and num_classes is None:
            model.class_names = PUBLISHED_LISTS.get(entry.num_classes)
    return model


def fetch_published(entry: Published) -> Path:
    """Path of the weights in the cache, downloaded if need be.

    Raises:
        DownloadError: as `beit.checkpoint.download.fetch`.
    """
    return fetch(entry.url, entry.file_name, sha256=entry.sha256, page=entry.page)
