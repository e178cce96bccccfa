"""The output folder of a run: checked, locked, and described by the resolved config."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yacs.config import CfgNode

from beit.config import dump, flatten
from beit.files import lock, write_text
from beit.metadata.files import RUN_CONFIG
from beit.parallel import ranks
from beit.schema import SCHEMA
from beit.text_files import load_yaml, read_text
from beit.train.resume import BEST, LATEST, MODEL, kept_epochs


@contextmanager
def output_folder(config: CfgNode) -> Iterator[Path]:
    """Lock the folder `config.SAVE`, and write the resolved config: of an evaluation, or of a run in a new folder.

    Rank 0 holds the lock, so that no other process writes into the folder. It is a lock on the folder itself, and ends
    with the process. A run that is continued keeps its config until `write_config`.

    Raises:
        ValueError: the folder holds a training run that this one would overwrite, a config of the user's or the data, or
            another run writes into it.
        OSError: it cannot be written.
    """
    folder, data = Path(config.SAVE), Path(config.DATA.DATA_PATH or os.devnull)
    if folder.is_dir() and data.is_dir() and folder.samefile(data):
        raise ValueError(
            f"-output {folder} is the folder of the data, whose class_names.txt and palette.txt would be overwritten; choose "
            "another -output"
        )
    if not config.EVAL:
        _refuse_to_overwrite(folder, config.MODEL.RESUME)
    handle = _prepare(folder, config) if ranks.rank() == 0 else None
    try:
        ranks.barrier()
        yield folder
    finally:
        if handle is not None:
            os.close(handle)


def write_config(config: CfgNode) -> None:
    """Write the resolved config into the output folder, on rank 0.

    Raises:
        OSError: as `files.replacing`.
    """
    if ranks.rank() == 0:
        name = "eval_config.yaml" if config.EVAL else RUN_CONFIG
        write_text(Path(config.SAVE) / name, dump(config))


def _refuse_to_overwrite(folder: Path, resume: str | None) -> None:
    """Refuse a run that would overwrite another one: a new run, or one that continues the run of another folder."""
    if not _has_run(folder):
        return
    if not resume:
        raise ValueError(
            f"{folder} already holds a training run; continue it with -resume auto or choose another -output"
        )
    if resume == "auto":
        if not (folder / LATEST).exists() and not kept_epochs(folder):
            raise ValueError(
                f"{folder} holds the weights of a run but no training state to continue; choose another -output, and "
                "start from the weights with -pretrained FILE"
            )
    elif Path(resume).is_file() and Path(resume).resolve().parent != folder.resolve():
        raise ValueError(
            f"{folder} holds a training run of its own, which -resume {resume} would overwrite; choose another -output, "
            "or continue it with -resume auto"
        )


def _has_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (LATEST, BEST, MODEL)) or bool(kept_epochs(folder))


def _is_resolved(file: Path) -> bool:
    """Whether a config states all keys, as those that runs write."""
    try:
        content = load_yaml(read_text(file))
    except ValueError:
        return False
    return isinstance(content, dict) and flatten(content).keys() >= SCHEMA.keys()


def _prepare(folder: Path, config: CfgNode) -> int:
    """Create and lock the folder and write a first config; returns the handle that holds the lock."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            if not lock(handle, wait=False):
                raise ValueError(
                    f"another run is writing into {folder}; wait for its end or choose another -output"
                )
            if config.EVAL or not (folder / RUN_CONFIG).exists():
                write_config(config)
            elif not ((folder / "log.txt").exists() or _has_run(folder) or _is_resolved(folder / RUN_CONFIG)):
                raise ValueError(
                    f"{folder / RUN_CONFIG} was not written by a run, and would be overwritten; give it another name, or "
                    "choose another -output"
                )
        except BaseException:  # an open handle would keep the lock until this process ends
            os.close(handle)
            raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"the output folder cannot be written: {reason}", str(folder)) from None
    return handle
