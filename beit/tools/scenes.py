"""`python -m beit.tools.scenes FOLDER`: write a small drawn segmentation data set into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from beit.data.scenes import write_scenes

if __name__ == "__main__":
    print(write_scenes(Path(sys.argv[1])))
