"""`python -m beit.tools.scenes FOLDER`: write a small drawn segmentation data set into a folder."""

from __future__ import annotations

from beit.data.scenes import write_scenes
from beit.tools.arguments import write_into_folder

if __name__ == "__main__":
    write_into_folder(__doc__, write_scenes)
