"""Every command of every page in `docs/` is run, in order, or checked where it cannot be."""

from __future__ import annotations
