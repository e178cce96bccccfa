"""One image at the input size of a model, as its weights were evaluated."""

from __future__ import annotations

import numpy as np
from PIL import Image

from beit.data.transforms import FILTERS, EvalTransform, channels_first
from beit.preprocessing import Preprocessing


def prepare_image(image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing) -> np.ndarray:
    """An RGB image resized and cropped, not yet normalized: uint8 `[3, height, width]`.

    Args:
        image: RGB, of any size.
        size: (height, width) of the model's input, pixels.
        preprocessing: with `squash` the whole image is resized to `size`; without it the image is resized to cover
            `size / crop_pct` and its center is cut out.
    """
    resample = FILTERS[preprocessing.interpolation]
    if preprocessing.squash:
        return channels_first(image.resize((size[1], size[0]), resample))
    assert preprocessing.crop_pct is not None  # what is incomplete was refused before
    return EvalTransform(size, preprocessing.crop_pct, resample)(image)["image"]
