"""The two ways a checkpoint file can disappoint."""

from __future__ import annotations


class CheckpointError(ValueError):
    """The file is not a readable checkpoint; the message says what it is and what to do, in one line."""


class UnsafeFileError(CheckpointError):
    """The file names code that no known checkpoint needs; none of it was imported or called."""
