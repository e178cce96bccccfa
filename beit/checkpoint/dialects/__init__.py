"""Every published checkpoint form to the canonical one and back: one small table per publisher."""

from __future__ import annotations

from beit.checkpoint.canonical import Architecture, State, describe, kind_of, missing_names
from beit.checkpoint.dialects.translate import PUBLISHERS, DialectInfo, from_canonical, to_canonical
from beit.preprocessing import Preprocessing

__all__ = [
    "PUBLISHERS",
    "Architecture",
    "DialectInfo",
    "Preprocessing",
    "State",
    "describe",
    "from_canonical",
    "kind_of",
    "missing_names",
    "to_canonical",
]
