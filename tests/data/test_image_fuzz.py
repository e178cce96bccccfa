"""Damaged images of each format, made at random: an image or an `ImageError`, in bounded time and memory.

`BEIT_FUZZ_SECONDS` (5) is the time of all formats together, `BEIT_FUZZ_SEED` (0) draws other damages, and
`BEIT_FUZZ_KEEP` is a folder for the file at which it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from beit.data.decoding_limits import MAX_TILE_PIXELS
from tests.data.image_fuzzing import FEWEST, MAX_PIXELS, valid_images
from tests.tiny import ROOT, environment

SECONDS = float(os.environ.get("BEIT_FUZZ_SECONDS", "5"))
SEED = int(os.environ.get("BEIT_FUZZ_SEED", "0"))
SECONDS_OF_ONE_IMAGE = 10  # of the processor; the slowest takes less than 1
MEBIBYTES_OF_ONE_IMAGE = 16 * max(MAX_PIXELS, MAX_TILE_PIXELS) / 2**20 + 64


@pytest.mark.slow
def test_damaged_images_give_an_image_or_an_error(tmp_path: Path) -> None:
    folder = Path(os.environ.get("BEIT_FUZZ_KEEP", tmp_path))
    words = [sys.executable, "-m", "tests.data.image_fuzzing", str(SECONDS), str(SEED), str(folder)]
    result = subprocess.run(
        words, capture_output=True, text=True, errors="replace", cwd=ROOT, env=environment(), check=False,
        timeout=SECONDS + 600,
    )  # fmt: skip
    assert result.returncode == 0, f"{folder / 'image'}, seed {SEED}: {result.stderr[-2000:]}"
    found = json.loads(result.stdout)
    counts = found["counts"]
    print(sum(counts.values()), "images", found)
    assert found["slowest"][0] < SECONDS_OF_ONE_IMAGE, found["slowest"]
    assert found["largest"][0] < MEBIBYTES_OF_ONE_IMAGE, found["largest"]
    for name in valid_images():
        assert counts.get(f"{name}: ImageError", 0) + counts.get(f"{name}: image", 0) >= FEWEST
        assert counts.get(f"{name}: ImageError"), f"{name} was never damaged"
