"""Weights in several files: an index in JSON that names the file of each tensor, as transformers and PaddleNLP write it.

Source: transformers/modeling_utils.py, `save_pretrained` with `max_shard_size`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beit.checkpoint.files import Contents, read
from beit.containers.errors import CheckpointError, listed, shown
from beit.text_files import read_json

INDEX_SUFFIX = ".index.json"
"""End of the name of an index."""


def read_shards(index: Path) -> Contents:
    """The tensors of all files that an index names, as if they were in one file. The files are in the folder of the index.

    Each file is read as by `files.read`, within the bounds of its own size.

    Raises:
        CheckpointError: the index is damaged; a file is missing or damaged, or lacks a tensor; two files hold one tensor.
    """
    weight_map = _weight_map(index)
    names = list(dict.fromkeys(weight_map.values()))
    missing = [name for name in names if not index.with_name(name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of its {len(names)} files {'is' if len(missing) == 1 else 'are'} missing: "
            f"{shown(listed(missing))}; copy or download all of them into the folder"
        )
    tree: dict[str, Any] = {}
    casts: dict[str, str] = {}
    metadata: dict[str, str] = {}
    left_out: dict[str, None] = {}
    containers = set()
    for name in names:
        shard = read(index.with_name(name))
        repeated = tree.keys() & shard.tree.keys()
        if repeated:
            raise CheckpointError(
                f"{index}: {shown(name)} repeats {shown(min(repeated))}, which another file holds"
            )
        absent = [tensor for tensor, file in weight_map.items() if file == name and tensor not in shard.tree]
        if absent:
            raise CheckpointError(
                f"{index}: {shown(name)} lacks {shown(listed(absent))}, which the index says it holds"
            )
        tree |= shard.tree
        casts |= shard.dtypes_cast
        metadata |= shard.metadata
        left_out |= dict.fromkeys(shard.left_out)
        containers.add(shard.container)
    container = f"{' and '.join(sorted(containers))} in {len(names)} files"
    return Contents(tree, container, casts, metadata, left_out=tuple(left_out))


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> name of its file, which has no folder: nothing outside of the index's folder is opened."""
    try:
        content = read_json(index)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    try:
        weight_map = content["weight_map"]
        files = set(weight_map.values())
    except (LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not an index of weights: it has no table weight_map") from error
    wrong = [str(name) for name in files if type(name) is not str or name != Path(name).name or "\\" in name]
    if wrong or not files:
        raise CheckpointError(
            f"{index}: {shown(listed(wrong)) or 'nothing'} is no name of a file in its folder"
        )
    return dict(weight_map)
