"""Exports of tokenizers: the token ids of each engine equal those of `encode`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.__main__ import main
from beit.card import CARD
from beit.checkpoint.files import write
from beit.config import dump
from beit.data.batch_transforms import unit_range
from beit.data.model_input import prepare_image
from beit.data.two_view import build_eval_views
from beit.deploy import export as module
from beit.deploy.description import read_description
from beit.deploy.export import export
from beit.deploy.graph import write_graph
from beit.deploy.runner import load_runner
from beit.models.tokenizer import build_vqkd
from beit.models.vqkd import VqKd
from beit.predict.exportable import load_exportable
from beit.predict.inference import load_predictor
from tests.checkpoint import publishers
from tests.tiny import TOKENIZER, randomize, tiny_config

GRIDS = {"vqkd": (4, 4), "dall-e": (2, 3)}
"""Tokenizer -> grid of its tokens."""


def config(**keys):
    return tiny_config(**TOKENIZER | {"DATA__CROP_PCT": 0.9} | keys)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """`vqkd/`, a run; `new/`, a run whose codebook was never initialized; `dall-e.pdparams`, an encoder."""
    root, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(1)
    model = randomize(build_vqkd(config()))
    for name in ("new", "vqkd"):
        (root / name).mkdir()
        (root / name / "config.yaml").write_text(dump(config()))
        paddle.save(model.state_dict(), str(root / name / "model.pdparams"))
        codes = rng.standard_normal((TOKENIZER["TOKENIZER__NUM_CODES"], TOKENIZER["TOKENIZER__CODE_DIM"]))
        codes /= np.linalg.norm(codes, axis=1, keepdims=True)
        model.quantize.embedding.weight.set_value(codes.astype(np.float32))
        model.quantize.embedding.initted.set_value(paddle.ones([1]))
    # Larger weights than at the start of training, so that the ids depend on the image.
    write(root / "dall-e.pdparams", {name: 20 * array for name, array in publishers.dalle(rng).items()})
    return root


def tokenizer(weights, name):
    return (
        load_exportable(weights / "vqkd")
        if name == "vqkd"
        else load_exportable(weights / "dall-e.pdparams", image_size=(16, 24))
    )


def assert_ids_are_those_of_encode(runner, source, photographs):
    images = np.stack([runner.description.open(path) for path in photographs])
    expected = source.model.encode(unit_range(paddle.to_tensor(images))).numpy()
    assert len(np.unique(expected)) > 2
    for batch in (1, 3, 4):
        found = runner(images[:batch])["codes"]
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found.reshape(batch, -1), expected[:batch])


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("name", GRIDS)
def test_token_ids_equal_those_of_encode(name, normalized, weights, photographs, tmp_path):
    source = tokenizer(weights, name)
    description = export(source, tmp_path / "out", photographs, normalized=normalized)
    assert description.output == "codes" and description.measured["paddle"] < 1e-5
    runner = load_runner(tmp_path / "out", threads=1)
    assert_ids_are_those_of_encode(runner, source, photographs)
    assert runner(np.zeros((2, 3, *source.image_size), np.uint8))["codes"].shape == (2, *GRIDS[name])
    with pytest.raises(ValueError, match=r"the output codes and has no classes; .*load_runner"):
        load_predictor(tmp_path / "out")


@pytest.mark.onnx
@pytest.mark.parametrize("name", GRIDS)
def test_token_ids_of_onnx_engines(name, weights, photographs, tmp_path):
    source = tokenizer(weights, name)
    description = export(source, tmp_path / "out", photographs, onnx=True)
    for engine in ("openvino", "onnxruntime"):
        assert description.measured[engine] < 1e-5
        assert_ids_are_those_of_encode(load_runner(tmp_path / "out", engine, threads=1), source, photographs)


@pytest.mark.onnx
def test_int8_states_the_share_of_equal_ids(weights, photographs, tmp_path, capsys):
    pictures = [str(path) for path in photographs]
    assert (
        main(["export", str(weights / "vqkd"), str(tmp_path / "out"), "--int8", "--pictures", *pictures]) == 0
    )
    measured = read_description(tmp_path / "out").measured["int8"]
    assert 0.5 < measured["same_class"] < 1 and measured["largest"] > 0
    assert f"same token id {100 * measured['same_class']:.1f} %" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no matrix products"):
        export(tokenizer(weights, "dall-e"), tmp_path / "dall-e", photographs, int8=True)
    assert not (tmp_path / "dall-e").exists()
    export(tokenizer(weights, "dall-e"), tmp_path / "dall-e", photographs, onnx=True)
    with pytest.raises(ValueError, match="no matrix products"):
        load_runner(tmp_path / "dall-e", "openvino", precision="int8")


@pytest.mark.parametrize("distance", [1e-5, 1.0])
def test_other_ids_are_accepted_for_near_ties_only(distance, weights, photographs, tmp_path, monkeypatch):
    """The graph has two codes exchanged: the most frequent one, and one at a distance from it."""
    source = tokenizer(weights, "vqkd")
    codebook = source.model.quantize.embedding.weight
    images = [np.asarray(Image.open(path).convert("RGB").resize((16, 16))) for path in photographs]
    pixels = unit_range(paddle.to_tensor(np.stack(images).transpose(0, 3, 1, 2)))
    most = np.bincount(source.model.encode(pixels).numpy().ravel(), minlength=len(codebook)).argmax()
    codes = codebook.numpy()
    other = (most + 1) % len(codes)
    codes[other] = codes[most] * (1 - distance)
    codebook.set_value(codes)
    order = np.arange(len(codes))
    order[[most, other]] = order[[other, most]]

    def write_exchanged(network, target):
        codebook.set_value(codes[order])
        write_graph(network, target)
        codebook.set_value(codes)

    monkeypatch.setattr(module, "write_graph", write_exchanged)
    if distance == 1:
        with pytest.raises(ValueError, match=r"on paddle the exported graph differs from the model"):
            export(source, tmp_path / "out", photographs)
        assert list(tmp_path.iterdir()) == []
        return
    assert 0 < export(source, tmp_path / "out", photographs).measured["paddle"] < 1e-4
    found = load_runner(tmp_path / "out", threads=1)((255 * pixels.numpy()).round().astype(np.uint8))["codes"]
    assert (found.reshape(4, -1) != source.model.encode(pixels).numpy()).any()


def test_a_codebook_that_was_never_initialized_is_refused(weights, photographs, tmp_path, capsys):
    words = ["export", str(weights / "new"), str(tmp_path / "a" / "b"), "--pictures", str(photographs[0])]
    assert main(words) == 2
    assert "was never initialized" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    source = load_exportable(weights / "vqkd")
    with pytest.raises(ValueError, match="the codebook was never initialized"):
        replace(source, model=build_vqkd(config()))


def test_the_verb_exports_token_ids_by_default(weights, photographs, tmp_path, capsys):
    words = ["export", str(weights / "vqkd"), str(tmp_path / "out"), "--pictures", str(photographs[0])]
    assert main([*words, "--image-size", "24"]) == 0
    assert "tokenizer, images uint8 [B, 3, 24, 24] to codes" in capsys.readouterr().out
    assert (tmp_path / "out" / CARD).is_file()
    runner = load_runner(tmp_path / "out", threads=1)
    assert runner(np.zeros((1, 3, 24, 24), np.uint8))["codes"].shape == (1, 6, 6)
    assert main([*words, "--output", "logits"]) == 2
    assert "choose one of codes" in capsys.readouterr().err


def test_images_are_prepared_as_in_evaluation(weights, photographs):
    """A square image, for which cropping before or after the resize selects the same pixels."""
    trained = load_exportable(weights / "vqkd").preprocessing
    assert (trained.mean, trained.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (trained.crop_pct, trained.interpolation, trained.image_size) == (0.9, "bicubic", 16)
    pretraining = tiny_config(TASK="pretrain", TOKENIZER__TYPE="dall-e", TOKENIZER__DALLE_WIDTH=8,
                              TOKENIZER__NUM_CODES=16)  # fmt: skip
    source = load_exportable(weights / "dall-e.pdparams", config=pretraining)
    assert source.image_size == (16, 16) and source.preprocessing.interpolation == "lanczos"
    image = Image.open(photographs[1]).convert("RGB").crop((0, 0, 90, 90))
    view = build_eval_views(pretraining, source.image_size)(image)["second"]
    np.testing.assert_array_equal(prepare_image(image, source.image_size, source.preprocessing), view)
    published = load_exportable(weights / "dall-e.pdparams")
    assert published.image_size == (112, 112) and published.preprocessing.crop_pct == 0.875


def test_a_config_of_pre_training_describes_its_tokenizer(weights):
    keys = {"TASK": "pretrain", "TOKENIZER__TYPE": "vqkd", "DATA__SECOND_INTERPOLATION": "bilinear"}
    pretraining = tiny_config(**TOKENIZER | keys)
    source = load_exportable(weights / "vqkd" / "model.pdparams", config=pretraining)
    assert isinstance(source.model, VqKd) and source.model.decoder is None
    assert source.image_size == (8, 8) and source.preprocessing.interpolation == "bilinear"
    loaded = beit.load_model(weights / "vqkd" / "model.pdparams", config=pretraining)
    assert loaded.encode(paddle.rand([1, 3, 8, 8])).shape == [1, 4]


def test_mistakes(weights, photographs, tmp_path):
    with pytest.raises(ValueError, match=r"vqkd is a tokenizer, .* leave them out"):
        load_exportable(weights / "vqkd", class_names=("a",))
    with pytest.raises(ValueError, match=r"DATA.IMAGE_SIZE = \(20, 20\) is not a multiple of .* = 8"):
        load_exportable(weights / "dall-e.pdparams", image_size=20)
    with pytest.raises(ValueError, match="a DALL-E token covers 8x8 pixels"):
        replace(tokenizer(weights, "dall-e"), image_size=(20, 20))
    with pytest.raises(ValueError, match=r"dall-e.pdparams is a tokenizer, .* `python -m beit export`"):
        load_predictor(weights / "dall-e.pdparams")
    write(tmp_path / "decoder.pdparams", publishers.dalle(np.random.default_rng(2), decoder=True))
    with pytest.raises(ValueError, match="is DALL-E's decoder"):
        load_exportable(tmp_path / "decoder.pdparams")
    export(load_exportable(weights / "vqkd"), tmp_path / "out", photographs)
    with pytest.raises(ValueError, match="is an export already: name the weights"):
        load_exportable(tmp_path / "out")
