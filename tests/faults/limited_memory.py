"""A data set for a fault test; data workers import it."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beit.data.images import open_image
from beit.data.sampler import Sample

LEFT = 32 << 20  # bytes


@dataclass
class LimitedMemory:
    """Reads one image in a process that may take 32 MB more than it has."""

    path: Path

    def __getitem__(self, sample: Sample) -> dict[str, np.ndarray]:
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + LEFT, before[1]))
        try:
            return {"image": np.asarray(open_image(self.path))}
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    def describe(self, sample: Sample) -> str:
        return str(self.path)
