"""Published checkpoints by name: a list of them, and their files. `beit.models.published` has their networks."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path

from beit.metadata.architecture import CLASSIFIER, SEGMENTATION
from beit.zoo.download import fetch
from beit.zoo.table import PUBLISHED, Published

_TASKS = {CLASSIFIER: "Image Classification", SEGMENTATION: "Semantic Segmentation"}
"""Kind of a checkpoint -> mmpretrain's name of its task; others have "null"."""


def list_models(
    pattern: str | None = None, exclude_patterns: Sequence[str] | None = None, task: str | None = None
) -> list[str]:
    """Names of published checkpoints, sorted. The arguments are mmpretrain's.

    Args:
        pattern: shell pattern (`*`, `?`, `[…]`) that the whole name must match, or, without these characters, its
            beginning; None for all.
        exclude_patterns: such patterns of names that are left out.
        task: "Image Classification", "Semantic Segmentation", or "null" for pre-trained models and tokenizers.

    Raises:
        ValueError: there is no such task.

    Examples:
        beit.list_models("beitv2_*_ft1k")
    """
    tasks = {*_TASKS.values(), "null"}
    if task is not None and task not in tasks:
        raise ValueError(f"task={task!r}; expected one of {', '.join(map(repr, sorted(tasks)))}")
    return sorted(
        name
        for name, entry in PUBLISHED.items()
        if (pattern is None or _matches(name, pattern))
        and not any(_matches(name, excluded) for excluded in exclude_patterns or ())
        and task in (None, _TASKS.get(entry.kind, "null"))
    )


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern if set(pattern) & set("*?[") else f"{pattern}*")


def published(name: str) -> Published:
    """The entry of a published checkpoint: publisher, config, preprocessing, accuracy, source, license.

    Raises:
        ValueError: no such name; the message gives the nearest ones.
    """
    if name not in PUBLISHED:
        raise ValueError(
            f"no published checkpoint is called {name!r}{_similar_names(name)}. beit.list_models() gives all names"
        )
    return PUBLISHED[name]


def _similar_names(name: str) -> str:
    """The published names nearest to one that is wrong, as the end of a message; empty if none is near."""
    near = difflib.get_close_matches(name, PUBLISHED, n=3, cutoff=0.5)
    return f"; similar: {', '.join(near)}" if near else ""


def path_of(source: str | Path) -> Path:
    """The path itself if it exists, or the file of a published name, which is downloaded into the cache.

    Raises:
        FileNotFoundError: there is no such file, folder or name; the message gives the nearest names.
        DownloadError: as `beit.zoo.download.fetch`.
    """
    if source == "":  # which would be the current folder
        raise FileNotFoundError(
            "the path of the weights is empty; name a file, a folder or a published checkpoint"
        )
    if Path(source).exists():
        return Path(source)
    if str(source) in PUBLISHED:
        return fetch_published(PUBLISHED[str(source)])
    raise FileNotFoundError(
        f"checkpoint {source} does not exist: it is not a file, a folder or a name of beit.list_models()"
        + _similar_names(str(source))
    )


def fetch_published(entry: Published) -> Path:
    """Path of the weights in the cache, downloaded if they are not there.

    Raises:
        DownloadError: as `beit.zoo.download.fetch`.
    """
    page = entry.page
    if not entry.url:
        page += (
            f"; beit list-models '{entry.name}*' lists such weights of publishers whose files have addresses"
        )
    return fetch(entry.url, entry.file_name, sha256=entry.sha256, page=page)
