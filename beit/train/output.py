"""The output folder of a run: checked, locked, and described by the resolved config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yacs.config import CfgNode

from beit.checkpoint.metadata import RUN_CONFIG
from beit.config import dump
from beit.files import lock
from beit.parallel import ranks
from beit.train.resume import LATEST


@contextmanager
def output_folder(config: CfgNode) -> Iterator[Path]:
    """Lock the folder `config.SAVE` and write the resolved config into it.

    Rank 0 holds the lock, so that no other process writes into the folder. It is a lock on the folder itself, and ends
    with the process.

    Raises:
        ValueError: the folder holds a training run that this one would overwrite, or another run writes into it.
        OSError: it cannot be written.
    """
    folder = Path(config.SAVE)
    if not config.EVAL and not config.MODEL.RESUME and (folder / LATEST).exists():
        raise ValueError(
            f"{folder} already holds a training run; continue it with -resume auto or choose another -output"
        )
    handle = _prepare(folder, config) if ranks.rank() == 0 else None
    try:
        ranks.barrier()
        yield folder
    finally:
        if handle is not None:
            os.close(handle)


def _prepare(folder: Path, config: CfgNode) -> int:
    """Create and lock the folder and write the config; returns the handle that holds the lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        if not lock(handle, wait=False):
            raise ValueError(
                f"another run is writing into {folder}; wait for its end or choose another -output"
            )
        name = "eval_config.yaml" if config.EVAL else RUN_CONFIG
        (folder / name).write_text(dump(config), encoding="utf-8")
    except OSError as error:
        raise OSError(
            error.errno, f"the output folder cannot be written: {error.strerror}", str(folder)
        ) from None
    return handle
