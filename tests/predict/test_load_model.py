"""`beit.load_model`: the network of any checkpoint, from the file alone, from a run folder and by name."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.beit import Beit, build_beit
from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.config import dump
from beit.models.dalle import DalleDecoder, DalleTokenizer
from beit.models.mim import BeitForMaskedImageModeling, build_mim
from beit.models.tokenizer import build_vqkd
from beit.models.upernet import UperNet, build_upernet
from beit.models.vqkd import VqKd
from beit.zoo.table import PUBLISHED
from tests.checkpoint import publishers
from tests.tiny import PRETRAIN, TOKENIZER, tiny_config, upernet_config

RNG = np.random.default_rng(0)
CLASSIFIER = publishers.unilm_classifier(RNG)
NAMES = [f"kind {k}" for k in range(4)]
# kind -> (state in unilm's names, class of the network, name of a tensor in the network)
KINDS = {
    "classifier": (CLASSIFIER, Beit),
    "encoder": ({k: v for k, v in CLASSIFIER.items() if not k.startswith("head.")}, Beit),
    "class token and absolute positions": (
        publishers.unilm_classifier(RNG, pooling="token", positions=True),
        Beit,
    ),
    "masked model": (publishers.unilm_mim(RNG), BeitForMaskedImageModeling),
    "masked model v2": (publishers.unilm_mim(RNG, version=2, depth=12), BeitForMaskedImageModeling),
    "UPerNet": (publishers.unilm_segmentation(RNG, depth=12), UperNet),
    "UPerNet without auxiliary head": (
        {
            k: v
            for k, v in publishers.unilm_segmentation(RNG, depth=12).items()
            if not k.startswith("auxiliary")
        },
        UperNet,
    ),
    "VQ-KD": (publishers.unilm_vqkd(RNG, width=384), VqKd),
    "DALL-E": (publishers.dalle(RNG), DalleTokenizer),
    "DALL-E's decoder": (publishers.dalle(RNG, decoder=True), DalleDecoder),
}


def saved(folder, state, name="w.pdparams"):
    write(folder / name, publishers.unilm_file(state))
    return folder / name


def assert_holds(network, file):
    """All tensors of the network are those of the file, but the index buffers."""
    expected = open_checkpoint(file).state
    encoder = network.encoder if isinstance(network, DalleTokenizer) else network
    for name, tensor in encoder.state_dict().items():
        if not name.endswith(("embed_avg", "embedding.cluster_size")):
            np.testing.assert_array_equal(tensor.numpy(), expected[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_built_from_the_file_alone(tmp_path, kind):
    state, network = KINDS[kind]
    file = saved(tmp_path, state)
    model = beit.load_model(file)
    assert type(model) is network and not model.training
    assert_holds(model, file)
    info = open_checkpoint(file).info
    assert model.preprocessing.mean == info.preprocessing.mean
    assert model.class_names == info.class_names


@pytest.mark.parametrize("kind", KINDS)
def test_loading_draws_no_random_values(tmp_path, kind):
    """Drawing them takes longer than reading the file. All tensors have values nevertheless."""
    state = {name: value for name, value in KINDS[kind][0].items() if not name.endswith("embed_avg")}
    file = saved(tmp_path, state)
    paddle.seed(3)
    expected = paddle.rand([1]).item()
    paddle.seed(3)
    model = beit.load_model(file)
    assert paddle.rand([1]).item() == expected
    for name, tensor in model.state_dict().items():
        assert np.isfinite(tensor.numpy()).all(), name


def test_the_networks_compute(tmp_path):
    images = paddle.to_tensor(RNG.random((2, 3, 12, 12), np.float32))
    assert beit.load_model(saved(tmp_path, CLASSIFIER))(images).shape == [2, 5]
    mask = paddle.to_tensor(np.eye(2, 9).astype(bool))
    assert beit.load_model(saved(tmp_path, KINDS["masked model"][0]))(images, mask).shape == [2, 11]
    main, branch = beit.load_model(saved(tmp_path, KINDS["masked model v2"][0]))(images, mask)
    assert main.shape == branch.shape == [2, 11]
    assert beit.load_model(saved(tmp_path, KINDS["UPerNet"][0]))(images).shape == [2, 4, 12, 12]
    assert beit.load_model(saved(tmp_path, KINDS["VQ-KD"][0])).encode(images).shape == [2, 9]
    assert beit.load_model(saved(tmp_path, KINDS["DALL-E"][0])).encode(images[:, :, :8, :8]).shape == [2, 1]


RUNS = {
    "classify": (build_beit, tiny_config()),
    "pretrain": (build_mim, tiny_config(**PRETRAIN)),
    "tokenizer": (build_vqkd, tiny_config(**TOKENIZER)),
    "segment": (build_upernet, upernet_config()),
}


@pytest.mark.parametrize("task", RUNS)
def test_run_folders_have_their_config(tmp_path, task):
    """Sizes that no tensor tells: heads of a tokenizer, blocks of a segmentation head."""
    build, config = RUNS[task]
    paddle.seed(3)
    state = {name: tensor.numpy() for name, tensor in build(config).state_dict().items()}
    if "quantize.embedding.initted" in state:  # as a codebook that was trained
        state["quantize.embedding.initted"] = np.ones_like(state["quantize.embedding.initted"])
    write(tmp_path / "model.pdparams", state)
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    for source in (tmp_path, tmp_path / "model.pdparams"):
        model = beit.load_model(source)
        assert not model.training
        assert_holds(model, tmp_path / "model.pdparams")
        assert model.preprocessing.source == "config.yaml beside the weights"


def test_class_names_come_along(tmp_path):
    state = KINDS["UPerNet"][0]
    write(
        tmp_path / "mm.pdparams",
        publishers.openmmlab(state) | {"meta": {"dataset_meta": {"classes": NAMES}}},
    )
    assert beit.load_model(tmp_path / "mm.pdparams").class_names == tuple(NAMES)
    predictor = beit.load_predictor(tmp_path / "mm.pdparams")
    assert predictor.class_names == tuple(NAMES)
    result = predictor([Image.new("RGB", (20, 16), (9, 99, 199))])[0]
    assert result["pred_sem_seg"].shape == (16, 20)


def test_of_several_state_dicts_the_key_chooses(tmp_path):
    other = publishers.unilm_classifier(np.random.default_rng(9))
    file = tmp_path / "beit_base.pdparams"
    write(file, {"student": CLASSIFIER, "teacher": other})
    for key, expected in (("student", CLASSIFIER), ("teacher", other)):
        for model in (
            beit.load_model(file, key=key),
            beit.load_predictor(file, key=key).model,
        ):
            np.testing.assert_array_equal(model.cls_token.numpy(), expected["cls_token"])


def test_folders_and_names(tmp_path, monkeypatch):
    convert(saved(tmp_path, CLASSIFIER), tmp_path / "hf", publisher="huggingface")
    assert beit.load_model(tmp_path / "hf").preprocessing.image_size == 12
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    saved(tmp_path, publishers.dalle(RNG)).rename(tmp_path / PUBLISHED["dalle_encoder"].file_name)
    assert type(beit.load_model("dalle_encoder")) is DalleTokenizer
    with pytest.raises(FileNotFoundError, match="similar: .*dalle_encoder"):
        beit.load_model("dalle_encode")


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (publishers.unilm_vqkd(RNG), "no file states the number of attention heads"),
        (publishers.unilm_mim(RNG, version=2), "unknown: give its config, which states MODEL.EARLY_LAYERS"),
        (publishers.unilm_segmentation(RNG), "unknown: give its config, which states MODEL.OUT_INDICES"),
    ],
)
def test_what_no_tensor_tells_is_not_guessed(tmp_path, state, words):
    with pytest.raises(ValueError, match=words):
        beit.load_model(saved(tmp_path, state))


def test_the_config_must_fit(tmp_path):
    file = saved(tmp_path, KINDS["masked model"][0])
    config = tiny_config(DATA__IMAGE_SIZE=12, MODEL__PATCH_SIZE=4)
    with pytest.raises(ValueError, match="has no weights for fc_norm.*fine-tune it first"):
        beit.load_model(file, config=config)
    with pytest.raises(ValueError, match="is a tokenizer, which does not predict"):
        beit.load_predictor(saved(tmp_path, KINDS["DALL-E"][0], "dalle.pdparams"))
