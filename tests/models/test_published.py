"""The networks of published checkpoints and of configs, by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest

from beit import zoo
from beit.__main__ import main
from beit.beit import Beit
from beit.checkpoint.files import write
from beit.config import get_config
from beit.models import published as models
from beit.models.dalle import DalleDecoder, DalleEncoder
from beit.models.mim import BeitForMaskedImageModeling
from beit.models.upernet import UperNet
from beit.models.vqkd import VqKd
from beit.zoo.download import DownloadError
from beit.zoo.table import PUBLISHED
from tests.tiny import ROOT


def test_unknown_name():
    with pytest.raises(
        ValueError, match="no published checkpoint is called 'beit_base_patch16_225'; similar: beit_base"
    ):
        models.get_model("beit_base_patch16_225")
    with pytest.raises(ValueError, match="dalle_encoder is a dalle_encoder, which has no classes"):
        models.get_model("dalle_encoder", num_classes=5)


SMALL: list[object] = [
    *("MODEL.OUT_INDICES", [0, 0, 0, 0], "MODEL.AUXILIARY_CHANNELS", 8, "MODEL.HEAD_LAYERS", 1),
    *("TOKENIZER.NUM_CODES", 16, "TOKENIZER.EMBED_DIM", 24, "TOKENIZER.NUM_HEADS", 3, "TOKENIZER.DEPTH", 1),
    *("TOKENIZER.DECODER_DEPTH", 1, "TOKENIZER.DALLE_WIDTH", 8, "TOKENIZER.DALLE_CODE_WIDTH", 8),
]


@pytest.fixture
def tiny(monkeypatch):
    """The configs of the table at a small width."""

    def tiny_config(path, options):
        shape = ["MODEL.EMBED_DIM", 24, "MODEL.DEPTH", 1, "MODEL.NUM_HEADS", 3, "DATA.IMAGE_SIZE", 32]
        return get_config(path, [*options, *shape, *SMALL])

    monkeypatch.setattr(models, "get_config", tiny_config)


def test_models_from_files(tiny, tmp_path, caplog):
    paddle.seed(0)
    model = models.get_model("beit_base_patch16_224", num_classes=5)
    assert model.head.weight.shape == [24, 5]
    path = tmp_path / "own.pdparams"
    write(path, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    with caplog.at_level("INFO"):
        again = models.get_model("beit_base_patch16_224", pretrained=path, num_classes=5)
    np.testing.assert_array_equal(again.head.weight.numpy(), model.head.weight.numpy())
    assert "own.pdparams: canonical classifier" in caplog.text
    assert (
        models.get_model("beit_base_patch16_224_pt22k", num_classes=0)
        .state_dict()
        .keys()
        .isdisjoint({"head.weight"})
    )
    assert not models.get_model("BEiTv2_vit_base_patch16_224").use_mean_pooling


def test_weights_without_an_address_name_a_command_that_lists_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    with pytest.raises(DownloadError, match=r"has no address .*beit list-models 'beit_base_patch16_224\*'"):
        models.get_model("beit_base_patch16_224", pretrained=True)
    assert main(["list-models", "beit_base_patch16_224*"]) == 0
    assert "beit_base_patch16_224_pt22k_ft22kto1k" in capsys.readouterr().out


def test_download_comes_from_the_cache(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    monkeypatch.setenv("BEIT_OFFLINE", "1")
    with pytest.raises(DownloadError, match="beit_base_patch16_224.pdparams is not in the cache"):
        models.get_model("beit_base_patch16_224", pretrained=True)
    model = models.get_model("beit_base_patch16_224", num_classes=5)
    write(tmp_path / "beit_base_patch16_224.pdparams", {k: v.numpy() for k, v in model.state_dict().items()})
    again = models.get_model("beit_base_patch16_224", pretrained=True, num_classes=5)
    np.testing.assert_array_equal(again.cls_token.numpy(), model.cls_token.numpy())


KINDS = {
    "beit_base_patch16_224_pt22k": BeitForMaskedImageModeling,
    "microsoft/beit-large-patch16-224-pt22k": BeitForMaskedImageModeling,
    "beitv2_base_patch16_224_pt1k": BeitForMaskedImageModeling,
    "beit_base_patch16_640_pt22k_ft22ktoade20k": UperNet,
    "upernet_beit-large_fp16_8x1_640x640_160k_ade20k": UperNet,
    "vqkd_encoder_base_decoder_3x768x12_clip-d5036aa7": VqKd,
    "mmselfsup_vqkd_encoder": VqKd,
    "dalle_encoder": DalleEncoder,
    "passl_dalle_decoder": DalleDecoder,
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_model(tiny, tmp_path, monkeypatch, name):
    """A model by name has the right class and loads the cached file of that name."""
    if KINDS[name] is BeitForMaskedImageModeling and name.startswith("beitv2"):
        two_blocks = ["MODEL.EARLY_LAYERS", 1, "MODEL.DEPTH", 2]
        monkeypatch.setattr(
            models,
            "get_config",
            lambda path, options, tiny=models.get_config: tiny(path, [*options, *two_blocks]),
        )
    paddle.seed(0)
    model = models.get_model(name)
    assert type(model) is KINDS[name]
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    if "quantize.embedding.initted" in state:  # as a codebook that was trained
        state["quantize.embedding.initted"] = np.ones_like(state["quantize.embedding.initted"])
    entry = replace(zoo.published(name), sha256=None)  # the file is not the published one
    monkeypatch.setattr(models, "published", lambda _: entry)
    file = entry.file_name
    written = tmp_path / f"{name.replace('/', '--')}.pdparams"
    write(written, state)
    written.rename(tmp_path / file)
    paddle.seed(1)
    again = models.get_model(name, pretrained=True)
    for key, value in again.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[key], err_msg=key)


def test_other_classes(tiny):
    """A pre-trained model becomes a classifier; a segmentation model gets a head of the requested size."""
    model = models.get_model("beit_base_patch16_224_pt22k", num_classes=5)
    assert type(model) is Beit and model.head.weight.shape == [24, 5]
    model = models.get_model("microsoft/beit-base-finetuned-ade-640-640", num_classes=7)
    assert model.decode_head.conv_seg.weight.shape[0] == 7


@pytest.mark.parametrize(
    "name", ["beit_tiny_patch16_224", "beit_small_patch16_224", "configs/beit_tiny_patch16_224.yaml"]
)
def test_a_config_without_published_weights(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    model = models.get_model(name, num_classes=7)
    assert type(model) is Beit and model.head.weight.shape == [192 if "tiny" in name else 384, 7]
    assert not model.training and model.patch_embed.image_size == (224, 224)
    paddle.save(model.state_dict(), str(tmp_path / "weights.pdparams"))
    again = models.get_model(name, pretrained=tmp_path / "weights.pdparams", num_classes=7)
    np.testing.assert_array_equal(again.head.weight.numpy(), model.head.weight.numpy())
    with pytest.raises(ValueError, match="is a config without published weights"):
        models.get_model(name, pretrained=True)


def test_every_config_names_a_model(monkeypatch):
    built = []
    monkeypatch.setattr(models, "build_model", lambda config: built.append(config) or paddle.nn.Identity())
    monkeypatch.setattr(models, "_TOKENIZERS", {})
    paths = [path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")]
    names = [str(path) for path in paths if path.parts[1] not in ("_base_", "beit")]  # PASSL's are in beit/
    for name in names:
        models.get_model(name)
    assert len(built) == len(names) > 50
    assert {config.TASK for config in built} == {
        "classify",
        "probe",
        "knn",
        "pretrain",
        "tokenizer",
        "segment",
    }


def test_a_pretraining_config_has_no_classes():
    with pytest.raises(ValueError, match="TASK: pretrain, whose models have no classes"):
        models.get_model("beit_tiny_patch16_224_pretrain", num_classes=3)
    with pytest.raises(FileNotFoundError, match="config file absent.yaml does not exist"):
        models.get_model("absent.yaml")


def test_paddle_hub_lists_and_loads_every_published_model():
    names = paddle.hub.list(str(ROOT), source="local")
    assert len(names) == len(PUBLISHED) and "beitv2_base_patch16_224_pt1k_ft21kto1k" in names
    described = paddle.hub.help(str(ROOT), "beit_base_patch16_224_in22k_ft_in22k_in1k", source="local")
    assert "classifier of timm, 224 pixels, top1 85.238" in described


def test_paddle_hub_loads_a_model(tiny):
    model = paddle.hub.load(str(ROOT), "beit_base_patch16_224", source="local", num_classes=5)
    assert type(model).__name__ == "Beit" and model.head.weight.shape == [24, 5]
