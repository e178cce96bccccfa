"""The evaluation transform of weights and configs, and one image at the input size of a model."""

from __future__ import annotations

import numpy as np
from PIL import Image
from yacs.config import CfgNode

from beit.config import image_hw
from beit.data.transforms import FILTERS, EvalTransform
from beit.preprocessing import Preprocessing, height_width, preprocessing_of


def build_eval_transform(config: CfgNode, crops: int = 1) -> EvalTransform:
    """The evaluation transform as DATA.* sets it; `crops` as in `EvalTransform`."""
    return eval_transform(preprocessing_of(config), image_hw(config), crops)


def eval_transform(preprocessing: Preprocessing, size: tuple[int, int], crops: int = 1) -> EvalTransform:
    """The evaluation transform of weights.

    Args:
        preprocessing: of the weights, with nothing unknown that the transform needs.
        size: (height, width) of the model's input, pixels.
        crops: as in `EvalTransform`.

    Raises:
        ValueError: the preprocessing states pixels, which are for a model of another input size.
    """
    p = preprocessing
    if p.resize is not None and p.image_size and height_width(p.image_size) != size:
        made = height_width(p.image_size)
        raise ValueError(
            f"the preprocessing ({p.source}) makes images of {made[0]}x{made[1]} pixels (height x width), the model takes "
            f"{size[0]}x{size[1]}: build the model with DATA.IMAGE_SIZE {list(made)}, which interpolates its positions, or "
            "state another preprocessing"
        )
    crop_pct = 1.0 if p.crop_pct is None else p.crop_pct
    return EvalTransform(size, crop_pct, FILTERS[p.interpolation], p.squash, p.resize, p.center_crop, crops)


def prepare_image(
    image: Image.Image, size: tuple[int, int], preprocessing: Preprocessing, crops: int = 1
) -> np.ndarray:
    """An RGB image resized and cropped, not yet normalized: uint8 `[3, height, width]`, or `[5, 3, height, width]`.

    Args:
        image: RGB, of any size.
        size: (height, width) of the model's input, pixels.
        preprocessing: the rule of resize and crop.
        crops: as in `EvalTransform`.

    Raises:
        ValueError: the preprocessing is for a model of another input size, or does not give that size for this image.
    """
    return eval_transform(preprocessing, size, crops)(image)["image"]
