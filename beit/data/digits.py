"""Demo data for classification: scikit-learn's 1,797 handwritten digits in the layout of list files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from beit.files import refuse_other_texts, write_text

VALIDATION_IMAGES = 360
SIDE = 32  # pixels; the original images have 8 x 8


def load_digits() -> Any:
    """scikit-learn's digits: `images` `[1797, 8, 8]` from 0 to 16 and `target` `[1797]`.

    Raises:
        ValueError: scikit-learn is not installed.
    """
    try:  # of the extra `demo`, which the package does not need
        from sklearn import datasets
    except ImportError as error:
        raise ValueError(
            'the handwritten digits need scikit-learn: pip install "beit-paddle[demo]"'
        ) from error
    return datasets.load_digits()


def write_digits(folder: Path) -> Path:
    """Write `images/*.png`, `train_list.txt` (1,437 lines), `val_list.txt` (360) and `class_names.txt` into `folder`.

    Source: UCI ML "Optical Recognition of Handwritten Digits", test part, as bundled with scikit-learn.

    Raises:
        ValueError: as `load_digits` and `refuse_other_texts`.
    """
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    names = {number: f"images/digit_{number:04d}.png" for number in order}
    lines = [f"{name} {digits.target[number]}\n" for number, name in names.items()]
    texts = {
        folder / "class_names.txt": "".join(f"{digit}\n" for digit in range(10)),
        folder / "train_list.txt": "".join(lines[VALIDATION_IMAGES:]),
        folder / "val_list.txt": "".join(lines[:VALIDATION_IMAGES]),
    }
    refuse_other_texts(texts)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, name in names.items():
        pixels = np.round(digits.images[number] / 16.0 * 255.0).astype(np.uint8)
        Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name)
    for path, text in texts.items():
        write_text(path, text)
    return folder
