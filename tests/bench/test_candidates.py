"""The timed steps compute what the package computes."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import paddle
import pytest

from beit.beit import build_beit
from beit.bench import candidates, ranked
from beit.bench.files import random_model, training_batch, write_inputs, write_jpegs, write_weights
from beit.bench.worker import Worker
from beit.config import get_config
from beit.data.batch_transforms import normalize
from beit.models.load import load_pretrained

TINY = ["MODEL.DEPTH", 2, "MODEL.NUM_CLASSES", 7, "MODEL.DROPPATH", 0.0, "TRAIN.MIXUP_ALPHA", 0.0]
TINY += ["TRAIN.CUTMIX_ALPHA", 0.0, "DATA.IMAGE_SIZE", 64]
CONFIG = "beit_tiny_patch16_224"


@pytest.fixture
def config():
    return get_config(CONFIG, TINY)


def test_logits_of_the_weights_in_each_format(config, tmp_path, monkeypatch):
    """The files for timm and transformers hold the same classifier."""
    monkeypatch.setattr(candidates, "get_config", lambda path: config)
    paths = write_weights(config, tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32)
    inputs = write_inputs({"images": images}, tmp_path / "inputs.npz")
    logits = candidates.infer({"config": CONFIG, "inputs": inputs, "device": "cpu", **paths})()
    assert logits.shape == (2, 7) and logits.std() > 0.1
    for form in ("timm", "transformers"):
        model = build_beit(config)
        load_pretrained(model, paths[form])
        model.eval()
        np.testing.assert_allclose(model(paddle.to_tensor(images)).numpy(), logits, atol=1e-5)


def test_losses_of_a_training_step(config, tmp_path):
    """They equal those of AdamW steps that are written out here, with one process and with two ranks."""
    batch = training_batch(config, 4)
    model = random_model(config)
    weights = tmp_path / "weights.pdparams"
    paddle.save(model.state_dict(), str(weights))
    work = {
        "config": CONFIG,
        "options": [*TINY, "TRAIN.LAYER_DECAY", 1.0, "TRAIN.WEIGHT_DECAY", 0.0, "TRAIN.SMOOTHING", 0.0],
        "weights": str(weights),
        "inputs": write_inputs(batch, tmp_path / "inputs.npz"),
        "device": "cpu",
        "lr": 1e-3,
        "compared_steps": 3,
    }
    losses = candidates.train(work)()["losses"]
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters(), weight_decay=0.0)
    images = normalize(paddle.to_tensor(batch["image"]), config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD)
    expected = []
    for _ in range(3):
        loss = paddle.nn.functional.cross_entropy(model(images), paddle.to_tensor(batch["label"]))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        expected.append(float(loss))
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    assert expected[2] < expected[0]

    worker = Worker(
        "beit.bench.ranked:train",
        {**work, "batch": 4, "threads": 2},
        tmp_path / "results.npz",
        log=tmp_path / "log.txt",
    )
    with closing(worker):
        np.testing.assert_allclose(worker.prepare()[0]["losses"], expected, rtol=2e-5)
        seconds, peak_bytes = worker.time(1)
        assert seconds > 0 and peak_bytes > 2**28  # of a rank
    with pytest.raises(ValueError, match="a batch of 4 cannot be divided among 3 ranks"):
        ranked.train({**work, "batch": 4, "threads": 3})


@pytest.mark.parametrize("path", ["beit_tiny_patch16_224_pretrain", "vqkd_digits"])
def test_training_steps_of_other_tasks(path, tmp_path):
    options = ["MODEL.DEPTH", 1]
    if "pretrain" in path:
        options += ["TOKENIZER.ALLOW_RANDOM", True]
    if "vqkd" in path:
        options += ["TOKENIZER.TEACHER", "features", "TOKENIZER.TEACHER_PRETRAINED", "."]
        options += ["TOKENIZER.KMEANS_INIT", False]
    batch = training_batch(get_config(path, options), 2)
    work = {
        "config": path,
        "options": options,
        "inputs": write_inputs(batch, tmp_path / "inputs.npz"),
        "device": "cpu",
        "average": False,
        "lr": 1e-4,
        "compared_steps": 1,
    }
    assert np.isfinite(candidates.train(work)()["losses"]).all()


def test_batches_from_image_files(tmp_path):
    files = write_jpegs(tmp_path, 2)
    work = {"config": CONFIG, "files": files, "device": "cpu", "shape": [2, 3, 224, 224]}
    in_worker = candidates.data_train(work | {"worker": True})()
    assert (
        in_worker.tolist()
        == candidates.data_train(work)().tolist()
        == candidates.decode(work)().tolist()
        == [2, 3, 224, 224]
    )
    evaluated = candidates.data_eval(work)()
    assert evaluated.shape == (2, 3, 224, 224) and evaluated.std() > 0.1
    np.testing.assert_array_equal(candidates.data_eval(work | {"worker": True})(), evaluated)


def test_readers_return_the_same_tensors(config, tmp_path):
    paths = write_weights(config, tmp_path, baselines=False)
    mine = candidates.load({"file": paths["weights"]})()
    theirs = candidates.load_paddle({"file": paths["weights"]})()
    assert mine.keys() == theirs.keys()
    assert all(mine[name] == theirs[name] for name in mine)


def test_logits_by_paddlevit_code(config, tmp_path, monkeypatch):
    """Its `beit.py` and `config.py` do not collide with the modules of this package."""
    (tmp_path / "paddlevit_module.py").write_text("SCALE = 2.0\n")
    (tmp_path / "config.py").write_text("def get_config(path):\n    return path\n")
    (tmp_path / "beit.py").write_text(
        "import paddle\nfrom paddlevit_module import SCALE\n\n\n"
        "class Net(paddle.nn.Layer):\n"
        "    def __init__(self, config):\n"
        "        super().__init__()\n        self.config = config\n"
        "        self.scale = self.create_parameter([1])\n"
        "    def forward(self, x):\n"
        "        return SCALE * self.scale * x.mean([2, 3])\n\n\n"
        "def build_beit(config):\n    return Net(config)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    weights = tmp_path / "weights.pdparams"
    paddle.save({"scale": paddle.to_tensor([3.0])}, str(weights))
    images = np.ones((1, 3, 4, 4), np.float32)
    work = {
        "config": CONFIG,
        "paddlevit": str(tmp_path),
        "device": "cpu",
        "weights": str(weights),
        "inputs": write_inputs({"images": images}, tmp_path / "inputs.npz"),
    }
    assert candidates.infer_paddlevit(work)().tolist() == [[6.0, 6.0, 6.0]]
