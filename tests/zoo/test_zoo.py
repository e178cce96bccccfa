"""The table of published checkpoints."""

from __future__ import annotations

import pytest

import beit
from beit import zoo
from beit.checkpoint.publishers import PUBLISHERS
from beit.config import get_config
from beit.flags import config_from_arguments
from beit.zoo.table import PUBLISHED

BASE, LARGE = (12, 768), (24, 1024)
TASK_OF = {
    "classifier": "classify",
    "mim_v1": "pretrain",
    "mim_v2": "pretrain",
    "vqkd": "tokenizer",
    "segmentation": "segment",
}


def test_every_published_checkpoint_is_listed():
    """How many checkpoints each publisher has."""
    counts = {}
    for entry in PUBLISHED.values():
        counts[entry.publisher] = counts.get(entry.publisher, 0) + 1
    assert counts == {
        "paddlevit": 5,
        "passl": 5 + 2,
        "paddleclas": 2,
        "unilm": 17 + 7 + 3 + 6,  # classifiers, pre-trained, tokenizers, segmentation
        "timm": 13,
        "huggingface": 11,
        "openmmlab": 6 + 2 + 2,
        "openai": 2,
    }
    assert zoo.list_models() == sorted(PUBLISHED)
    assert zoo.list_models("beit_large_patch16_512*") == [
        "beit_large_patch16_512",
        "beit_large_patch16_512.in22k_ft_in22k_in1k",
        "beit_large_patch16_512_pt22k_ft22kto1k",
    ]


def test_cfg_takes_published_names(tmp_path, monkeypatch):
    """The config is that of the model of this name, with its classes and pooling. DALL-E has no config of its own."""
    for name, entry in PUBLISHED.items():
        if entry.kind.startswith("dalle"):
            with pytest.raises(FileNotFoundError):
                config_from_arguments([f"-cfg={name}"])
            continue
        assert config_from_arguments([f"-cfg={name}"]) == get_config(entry.config, list(entry.options)), name
    config = config_from_arguments(["-cfg=beit_base_patch16_224.in22k_ft_in22k", "-opts", "MODEL.DEPTH", "3"])
    assert (config.MODEL.NUM_CLASSES, config.MODEL.DEPTH) == (21841, 3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beit_base_p16_224_ft").write_text("MODEL:\n  DEPTH: 5\n")  # a file of the user comes first
    assert config_from_arguments(["-cfg=beit_base_p16_224_ft"]).MODEL.DEPTH == 5


def test_entries_agree_with_their_configs():
    for name, entry in PUBLISHED.items():
        assert entry.publisher in {*PUBLISHERS, "paddleclas"}
        assert entry.page.startswith("https://")
        assert entry.license in ("MIT", "Apache-2.0", "modified MIT")
        assert entry.url == "" or entry.url.startswith("https://")
        assert entry.kind in {*TASK_OF, "dalle_encoder", "dalle_decoder"}, name
        config = get_config(entry.config, list(entry.options))
        if entry.kind.startswith("dalle"):
            assert ("dall-e", entry.num_classes) == (config.TOKENIZER.TYPE, config.TOKENIZER.NUM_CODES), name
            continue
        assert entry.preprocessing.image_size == config.DATA.IMAGE_SIZE, name
        assert (LARGE if "large" in name else BASE) == (config.MODEL.DEPTH, config.MODEL.EMBED_DIM), name
        assert TASK_OF[entry.kind] == config.TASK, name
        is_v1 = name.startswith(("beit_", "beit-", "microsoft/"))
        if entry.kind.startswith("mim"):
            assert (config.TOKENIZER.NUM_CODES, entry.kind == "mim_v1") == (entry.num_classes, is_v1), name
            classifier = get_config(entry.classifier_config)
            assert (classifier.TASK, classifier.MODEL.DEPTH) == ("classify", config.MODEL.DEPTH), name
        else:
            assert entry.classifier_config == "", name
        if entry.kind == "segmentation":
            assert entry.num_classes == config.MODEL.NUM_CLASSES, name
        if entry.kind == "vqkd":
            assert entry.num_classes == config.TOKENIZER.NUM_CODES, name
        if entry.kind == "classifier":
            assert entry.num_classes == config.MODEL.NUM_CLASSES, name
            assert tuple(config.DATA.IMAGENET_MEAN) == entry.preprocessing.mean, name
            pooling = "mean" if config.MODEL.USE_MEAN_POOLING else "token"
            assert pooling == entry.preprocessing.pooling, name
    assert len({entry.file_name for entry in PUBLISHED.values()}) == len(PUBLISHED)


def test_published_numbers():
    assert zoo.published("beit_base_patch16_224").metrics == {"top1": 85.21, "top5": 97.66}
    assert zoo.published("beitv2_large_patch16_224_pt1k_ft21ktoade20k").metrics == {"miou": 57.5}
    assert (
        zoo.published("microsoft/beit-base-patch16-224").file_name == "microsoft--beit-base-patch16-224.bin"
    )
    assert zoo.published("beit-base-p16_beit-in21k-pre_3rdparty_in1k").sha256 == "c0a4df23"


@pytest.mark.parametrize(
    "read", [zoo.path_of, lambda path: beit.get_model("beit_tiny_patch16_224", pretrained=path)]
)
def test_an_empty_path_is_not_the_current_folder(read, tmp_path, monkeypatch):
    """It is what is left of an unset variable in a shell."""
    (tmp_path / "model.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="the path of the weights is empty"):
        read("")
    assert zoo.path_of(".").is_dir()
