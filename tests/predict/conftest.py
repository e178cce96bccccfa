"""A classifier and an image for the tests of the web page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from beit.predict.classifier import Classifier


@pytest.fixture(scope="session")
def predictor() -> Classifier:
    """A tiny classifier with random weights, two of whose classes have one name."""
    import paddle

    from beit.beit import build_beit
    from beit.predict.classifier import classifier
    from tests.tiny import tiny_config

    paddle.seed(3)
    model = build_beit(tiny_config())
    model.head.weight.set_value(paddle.randn(model.head.weight.shape))
    model.eval()
    return classifier(model, class_names=("crane", "crane", "鹤"))


@pytest.fixture(scope="session")
def image_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG of 30 x 20 pixels of noise."""
    import numpy as np
    from PIL import Image

    path = tmp_path_factory.mktemp("image") / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path
