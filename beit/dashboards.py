"""Programs that show curves and images of runs: VisualDL, TensorBoard, Weights & Biases."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from beit.files import write_text
from beit.schema import SCHEMA
from beit.text_files import read_text

# VisualDL shows only the last file of a folder, so that a resumed run has to go on in the same one.
VISUALDL_FILE = "vdlrecords.run.log"
_WANDB_ID = "wandb_id.txt"


class Dashboard(Protocol):
    """Where numbers and images of a run are shown."""

    def config(self, text: str, values: Mapping[str, Any]) -> None:
        """Show the config, and its values as the hyperparameters of the run.

        Args:
            text: YAML.
            values: by key, such as "TRAIN.BASE_LR".
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add a point to each curve; the last points count as the metrics of the run."""

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """Show an image, uint8 `[H, W, 3]`."""

    def close(self) -> None:
        """Write what is still buffered, and end the run."""


def open_dashboard(folder: Path, name: str) -> Dashboard | None:
    """A dashboard, which continues that of an earlier run in the folder; None if VisualDL, the default, is not installed.

    Args:
        folder: of the run.
        name: key of `DASHBOARDS`.

    Raises:
        ValueError: another program is not installed, or W&B has no account to log into.
        OSError: the folder cannot be written.
    """
    module, create = DASHBOARDS[name]
    if importlib.util.find_spec(module) is not None:
        return create(folder)
    if name == "visualdl":
        return None
    raise ValueError(f'LOGGERS: {name} is not installed; pip install "beit-paddle[{name}]", or leave it out')


class VisualDl:
    """Curves, images and hyperparameters in `visualdl/`. It writes in its own thread and only prints write errors."""

    def __init__(self, folder: Path) -> None:
        from visualdl import LogWriter  # here, because the import takes a third of a second

        path = folder / "visualdl" / VISUALDL_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _cut_half_record(path)
            with contextlib.redirect_stdout(io.StringIO()):  # it prints that the file of a resumed run exists
                self._writer = LogWriter(logdir=str(path.parent), file_name=VISUALDL_FILE)
        except OSError as error:
            raise log_error(error, path) from error
        self._hyperparameters: dict[str, str | float] = {}
        self._metrics: set[str] = set()

    def config(self, text: str, values: Mapping[str, Any]) -> None:
        """As `Dashboard.config`; hyperparameters are the values that differ from their defaults."""
        self._writer.add_text(tag="config", text_string=text, step=0)
        self._hyperparameters = _changed(values)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Dashboard.scalars`."""
        for tag, value in values.items():
            self._writer.add_scalar(tag=tag, value=float(value), step=step)
        self._metrics |= {tag for tag in values if not tag.startswith("train/")}

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """As `Dashboard.image`."""
        self._writer.add_image(tag=tag, img=image, step=step)

    def close(self) -> None:
        """As `Dashboard.close`; hyperparameters are written now, because VisualDL must be told their metrics."""
        if self._metrics:
            self._writer.add_hparams(self._hyperparameters, sorted(self._metrics))
        self._writer.close()


class TensorBoard:
    """Curves, images and hyperparameters in `tensorboard/`, one file per process."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        # Two files that begin in the same second would have one name.
        self._writer = SummaryWriter(str(folder / "tensorboard"), filename_suffix=f".{time.time_ns()}")
        self._has_begun = False

    def config(self, text: str, values: Mapping[str, Any]) -> None:
        """As `Dashboard.config`; hyperparameters are the values that differ from their defaults."""
        from tensorboardX.summary import hparams

        self._writer.add_text("config", f"```yaml\n{text}\n```", 0)
        _, start, _ = hparams(_changed(values), {})
        self._writer.file_writer.add_summary(start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Dashboard.scalars`."""
        if not self._has_begun and any(tag.startswith("train/") for tag in values):
            self._discard_from(step)
        for tag, value in values.items():
            self._writer.add_scalar(tag, float(value), step)
        self._writer.flush()

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """As `Dashboard.image`."""
        self._writer.add_image(tag, image, step, dataformats="HWC")

    def close(self) -> None:
        """As `Dashboard.close`."""
        self._writer.close()

    def _discard_from(self, step: int) -> None:
        """Let TensorBoard discard the points of earlier files from a step on, which runs again after a resume."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        start = SessionLog(status=SessionLog.START)
        self._writer.file_writer.add_event(Event(wall_time=time.time(), step=step, session_log=start))
        self._has_begun = True


class WeightsAndBiases:
    """A run of Weights & Biases; `wandb_id.txt` in the folder has its id, under which a resumed run continues it.

    Its own environment variables choose account, project (default `beit`) and mode (`WANDB_MODE=offline`).
    """

    def __init__(self, folder: Path) -> None:
        import wandb

        self._wandb = wandb
        file = folder / _WANDB_ID
        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "beit"),
                name=os.environ.get("WANDB_NAME", folder.resolve().name),
                id=(read_text(file).strip() or None) if file.is_file() else None,
                resume="allow",
                dir=str(folder),
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"LOGGERS: wandb does not start: {error}; log in with `wandb login`, set WANDB_MODE=offline, or leave it out"
            ) from error
        write_text(file, f"{self._run.id}\n")
        # A step that runs again after a resume is lower than the last one, which W&B refuses for its own counter.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def config(self, text: str, values: Mapping[str, Any]) -> None:
        """As `Dashboard.config`."""
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """As `Dashboard.scalars`."""
        self._run.log({**values, "step": step})

    def image(self, tag: str, image: np.ndarray, step: int) -> None:
        """As `Dashboard.image`."""
        self._run.log({tag: self._wandb.Image(image), "step": step})

    def close(self) -> None:
        """As `Dashboard.close`; after an exception the run counts as failed."""
        self._run.finish(exit_code=int(sys.exc_info()[0] is not None))


DASHBOARDS: dict[str, tuple[str, Callable[[Path], Dashboard]]] = {
    "visualdl": ("visualdl", VisualDl),
    "tensorboard": ("tensorboardX", TensorBoard),
    "wandb": ("wandb", WeightsAndBiases),
}
"""Name in `LOGGERS` -> module that it needs, and class."""


def log_error(error: OSError, path: Path) -> OSError:
    """An error in writing the log of a run, with the file and what to do."""
    text = f"cannot write the run log ({error.strerror}); free space or choose another output folder"
    return OSError(error.errno, text, str(path))


def _changed(values: Mapping[str, Any]) -> dict[str, str | float]:
    """The values that differ from their defaults; those that are not numbers as text."""
    changed = {key: value for key, value in values.items() if value != SCHEMA[key].default}
    return {
        key: value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
        for key, value in changed.items()
    }


def _cut_half_record(path: Path) -> None:
    """Remove a partial record at the end of a VisualDL file, which would make all later records unreadable.

    A record is its length (8 bytes, little endian) and its bytes: visualdl/writer/record_writer.py
    `RecordWriter`.
    """
    if not path.exists():
        return
    size = path.stat().st_size
    with path.open("r+b") as file:
        end = 0
        while end + 8 <= size:
            file.seek(end)
            (length,) = struct.unpack("<Q", file.read(8))
            if end + 8 + length > size:
                break
            end += 8 + length
        file.truncate(end)
