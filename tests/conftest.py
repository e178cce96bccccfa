"""Settings every test needs before Paddle is loaded, and the fixtures of more than one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from beit.predict.segmentation import Segmenter

# Several test processes share few cores; the tiny shapes gain nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


OPTIONAL = ("browser", "dashboards", "faults", "onnx", "peers", "site")
"""Markers of tests that need other packages or much time: such a test runs only where `-m` names its marker."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = {name for name in OPTIONAL if name not in config.option.markexpr}
    deselected = [item for item in items if any(mark.name in left_out for mark in item.iter_markers())]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in set(deselected)]


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Downloads and graphs of these tests are not those of the user, nor of tests that run at the same time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BEIT_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of the two photographs of scikit-learn, 640 x 427 pixels, and of a part of each."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("photographs")
    temple, flower = (Image.fromarray(pixels) for pixels in load_sample_images().images)
    crops = temple.crop((0, 0, 90, 300)), flower.crop((200, 50, 500, 150))
    for number, image in enumerate((temple, flower, *crops)):
        image.save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture
def example_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the files that the examples of the help texts name."""
    import paddle

    from tests.example_folder import write_example_folder

    paddle.seed(0)
    monkeypatch.chdir(write_example_folder(tmp_path))
    return tmp_path


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, Path]:
    """A tiny segmentation model with random weights, and its folder, which also holds three images."""
    import numpy as np
    import paddle

    from beit.data.scenes import draw_scene
    from beit.models.upernet import build_upernet
    from beit.predict.inference import load_predictor
    from tests.tiny import upernet_config

    folder = tmp_path_factory.mktemp("segmenter")
    paddle.seed(1)
    model = build_upernet(upernet_config())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.2)
    file = str(folder / "best.pdparams")
    paddle.save(model.state_dict(), file)
    for number in range(3):
        draw_scene(np.random.default_rng(number))[0].save(folder / f"{number}.png")
    keys = {"TEST__MODE": "whole", "DATA__RESIZE_LIMITS": [32, 24]}
    return load_predictor(file, config=upernet_config(**keys)), folder
