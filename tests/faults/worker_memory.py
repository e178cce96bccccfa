"""A dataset that measures the memory of its worker process; imports nothing large, because the workers import it too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beit.data.dataset import ImageDataset


class MemoryDataset(ImageDataset):
    """Returns the memory of the worker process that it does not share, in MB, instead of images."""

    def read(self, index: int, seed: int) -> dict[str, np.ndarray]:
        self.images.path(index)
        with Path("/proc/self/smaps_rollup").open(encoding="utf-8") as file:
            private = sum(int(line.split()[1]) for line in file if line.startswith("Private"))
        return {"private": np.asarray(private / 1024)}
