from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.deploy.export import export
from beit.deploy.network import FixedPool, fixed_pools
from beit.deploy.runner import load_runner
from beit.predict.inference import load_predictor
from tests.tiny import UPERNET, upernet_config


def test_logits_equal_those_of_the_model(segmenter, tmp_path):
    model, folder = segmenter
    files = sorted(folder.glob("*.png"))
    export(model, tmp_path / "out", files, normalized=True)
    runner = load_runner(tmp_path / "out", threads=1)
    images = np.stack([runner.description.open(path) for path in files])
    mean, std = (
        np.reshape(value, (1, 3, 1, 1)) for value in (model.preprocessing.mean, model.preprocessing.std)
    )
    inputs = paddle.to_tensor(((images / 255 - mean) / std).astype(np.float32))
    with paddle.no_grad():
        expected = model.model(inputs).numpy()
    assert expected.shape[:2] == (3, UPERNET["MODEL__NUM_CLASSES"]) and np.ptp(expected) > 0.01
    np.testing.assert_allclose(runner(images)["logits"], expected, atol=1e-5 * np.abs(expected).max())


def test_class_map_equals_that_of_the_predictor(segmenter, tmp_path):
    """An image of the window's size, which neither of them resizes."""
    model, folder = segmenter
    description = export(model, tmp_path / "out", sorted(folder.glob("*.png")), output="class_map")
    assert description.class_names == model.class_names and description.palette == model.palette
    runner = load_runner(tmp_path / "out", threads=1)
    window = Image.open(folder / "0.png").convert("RGB").resize(description.image_size[::-1])
    found = runner(description.prepare(window)[None])["class_map"][0]
    config = upernet_config(TEST__MODE="whole", DATA__RESIZE_LIMITS=list(description.image_size))
    expected = load_predictor(folder / "best.pdparams", config=config).class_map(window)
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.99


@pytest.mark.parametrize("size", [(16, 16), (5, 7), (3, 2)])
def test_fixed_pool_equals_adaptive_pooling(size):
    maps = paddle.randn([2, 3, *size])
    for bins in (1, 2, 3, 6):
        expected = paddle.nn.functional.adaptive_avg_pool2d(maps, bins)
        np.testing.assert_allclose(FixedPool(bins)(maps).numpy(), expected.numpy(), atol=1e-6)


def test_fixed_pools_are_replaced_back(segmenter):
    before = [type(layer) for layer in segmenter[0].model.sublayers()]
    with fixed_pools(segmenter[0].model):
        assert FixedPool in [type(layer) for layer in segmenter[0].model.sublayers()]
    assert [type(layer) for layer in segmenter[0].model.sublayers()] == before


def test_outputs_of_classifiers_are_refused(segmenter, tmp_path):
    with pytest.raises(ValueError, match="choose one of logits, class_map"):
        export(segmenter[0], tmp_path / "out", [segmenter[1] / "0.png"], output="topk")
