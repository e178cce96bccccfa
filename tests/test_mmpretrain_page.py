"""The Python blocks of mmpretrain's pages of BEiT and BEiT v2 run with other import lines and nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

import beit
import beit.predict.resolve
from beit.config import get_config
from tests.docs.pages import SMALLER, use_cache, write_mmpretrain
from tests.reference_numpy import softmax

# configs/beit/README.md and configs/beitv2/README.md of mmpretrain 1.2.0
PREDICT = """
from mmpretrain import inference_model

predict = inference_model('{name}', 'demo/bird.JPEG')
print(predict['pred_class'])
print(predict['pred_score'])
"""
USE = """
import torch
from mmpretrain import get_model

model = get_model('{name}', pretrained=True)
inputs = torch.rand(1, 3, 224, 224)
out = model(inputs)
print(type(out))
# To extract features.
feats = model.extract_feat(inputs)
print(type(feats))
"""
IMPORTS = {"from mmpretrain import": "from beit import", "import torch": "import paddle as torch"}
SMALL = SMALLER["beitv2_beit-base-p16_8xb256-amp-coslr-300e_in1k"]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of the page: an image, and tiny weights in the download cache."""
    write_mmpretrain(tmp_path, np.random.default_rng(0))
    use_cache(tmp_path / "cache", monkeypatch)
    monkeypatch.chdir(tmp_path)

    def small(name: str, opts: Any = ()) -> Any:
        early = {} if name.startswith("beitv2_") else {"MODEL.EARLY_LAYERS": 0}
        return get_config(name, [*opts, *(item for pair in (SMALL | early).items() for item in pair)])

    monkeypatch.setattr("beit.models.published.get_config", small)
    monkeypatch.setattr(beit.predict.resolve, "get_config", small)


def run(text: str, name: str) -> dict[str, Any]:
    for theirs, ours in IMPORTS.items():
        text = text.replace(theirs, ours)
    if paddle.__version__ < "3.3":  # which takes the sides of a shape one by one, as PyTorch
        text = text.replace("(1, 3, 224, 224)", "([1, 3, 224, 224])")
    names: dict[str, Any] = {}
    exec(compile(text.format(name=name), "page", "exec"), names)
    return names


@pytest.mark.parametrize("version", ["beit", "beitv2"])
def test_predict_image(version: str, page: None, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"beit-base-p16_{version}-pre_8xb128-coslr-100e_in1k"
    predict = run(PREDICT, name)["predict"]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [predict["pred_class"], str(predict["pred_score"])]
    assert {"pred_scores", "pred_label", "pred_score", "pred_class"} <= set(predict)
    assert predict["pred_scores"].shape == (1000,)
    assert predict["pred_label"] == predict["pred_scores"].argmax()
    model = beit.get_model(name, pretrained=True)
    predictor = beit.load_predictor(model)
    with paddle.no_grad():
        logits = model(predictor.tensor([predictor.open("demo/bird.JPEG")])).numpy()[0]
    np.testing.assert_allclose(predict["pred_scores"], softmax(logits), rtol=1e-4)
    assert predict["pred_class"] == predictor.class_names[predict["pred_label"]]
    expected = (0.5, 0.5, 0.5) if version == "beit" else (0.485, 0.456, 0.406)
    assert (predictor.preprocessing.mean, predictor.preprocessing.crop_pct) == (expected, 0.875)


@pytest.mark.parametrize("version", ["beit", "beitv2"])
def test_use_the_model(version: str, page: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Both calls give a tuple: of the last block in BEiT, of an early and of the last block in BEiT v2."""
    names = run(USE, f"{version}_beit-base-p16_8xb256-amp-coslr-300e_in1k")
    assert capsys.readouterr().out.splitlines() == ["<class 'tuple'>"] * 2
    blocks = {"beit": 1, "beitv2": 2}[version]
    for output in (names["out"], names["feats"]):
        assert [tensor.shape for tensor in output] == [[1, 197, 24]] * blocks
    for first, second in zip(names["out"], names["feats"], strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert np.abs(names["out"][0].numpy()).max() > 0.1


@pytest.mark.parametrize("version", ["beit", "beitv2"])
def test_use_a_classifier(version: str, page: None) -> None:
    names = run(USE, f"beit-base-p16_{version}-pre_8xb128-coslr-100e_in1k")
    assert names["out"].shape == [1, 1000] and [tensor.shape for tensor in names["feats"]] == [[1, 24]]
