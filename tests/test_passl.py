"""PASSL's interface: the lines of its page, its seven config files with their mistakes, its weights."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
import yaml

import beit
from beit.checkpoint.files import read, write
from beit.models.load import load_pretrained
from beit.models.mim import BeitForMaskedImageModeling
from beit.passl import build_backbone, build_head, get_config
from tests.checkpoint import publishers
from tests.reference_numpy import classify, predict_tokens
from tests.tiny import ROOT, tiny_beit

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
TINY = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}


class Model(paddle.nn.Layer):
    """The class of PASSL's page (configs/beit/README.md)."""

    def __init__(self, cfg_file: Any, overrides: Any = None) -> None:
        super().__init__()
        cfg = get_config(cfg_file, overrides)
        self.backbone = build_backbone(cfg.model.architecture)
        self.head = build_head(cfg.model.head)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.backbone(x)
        x = self.head(x)
        return x  # noqa: RET504 (as on the page)


def supervised(size: int, width: int = 768, **misspelled: str) -> dict[str, Any]:
    """The values of PASSL's files for the five published models; numbers with an exponent are words in YAML."""
    depth, heads, init = (12, 12, 0.1) if width == 768 else (24, 16, "1e-5")
    architecture = {"name": "Beit", "img_size": size, "embed_dim": width, "patch_size": 16, "depth": depth}
    architecture |= {"num_heads": heads, "mlp_ratio": 4, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
    names = {"model": "BEiTWrapper", "head": "BEiTClsHead"} | misspelled
    transforms = [
        {"name": "RandomResizedCrop", "size": 224, "scale": [0.75, 1.0], "interpolation": "bicubic"},
        {"name": "NormalizeImage", "scale": "1.0/255.0", **IMAGENET},
    ]
    return {
        "epochs": 300,
        "model": {
            "name": names["model"],
            "architecture": architecture | {"init_values": init},
            "head": {"name": names["head"], "num_classes": 1000, "in_channels": width},
        },
        "dataloader": {"train": {"sampler": {"batch_size": 128}, "dataset": {"transforms": transforms}}},
        "lr_scheduler": {"learning_rate": "3e-3"},
    }


def fine_tuning() -> dict[str, Any]:
    file = supervised(224, model="BEiTFTWrapper", head="BEiTFTHead")
    file["model"]["architecture"] |= {
        "name": "VisionTransformerForFinetune",
        "qkv_bias": True,
        "drop_path_rate": 0.1,
    }
    half = {"mean": [0.5] * 3, "std": [0.5] * 3}
    file["dataloader"]["train"]["dataset"]["transforms"][1] |= half
    pixels = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]}
    steps = [
        {"name": "Resize", "size": 256},
        {"name": "CenterCrop", "size": 224},
        {"name": "Normalize", **pixels},
    ]
    file["dataloader"]["val"] = {"dataset": {"transforms": steps}}
    return file


def pretraining() -> dict[str, Any]:
    file = supervised(224, model="BEiTPTWrapper", head="BEiTPTHead")
    file["model"]["architecture"] |= {
        "name": "VisionTransformerForMaskedImageModeling",
        "use_rel_pos_bias": False,
        "use_shared_rel_pos_bias": True,
        "drop_path_rate": 0.1,
    }
    masks = {"num_masking_patches": 75, "max_num_patches": "None"}
    file["dataloader"]["train"]["dataset"] = {"common_transforms": [], "masking_generator": masks}
    return file


WRONG = {"model": "BeitWrapper", "head": "BeitClsHead"}
NAMES = [
    "model.name is BeitWrapper; PASSL's class is BEiTWrapper, which is used",
    "model.head.name is BeitClsHead; PASSL's class is BEiTClsHead, which is used",
]
STATISTICS = "dataloader.train, NormalizeImage: mean and std are .* are 0.5"

# PASSL's file: its values, and the mistakes in it
FILES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "beit_base_p16_224": (supervised(224), [STATISTICS]),
    "beit_base_p16_384": (
        supervised(384, **WRONG),
        [*NAMES, "RandomResizedCrop: crops have 224 pixels, the model takes 384", STATISTICS],
    ),
    "beit_large_p16_224": (supervised(224, 1024, **WRONG), [*NAMES, STATISTICS]),
    "beit_large_p16_384": (
        supervised(384, 1024, **WRONG),
        [*NAMES, "RandomResizedCrop: crops have 224 pixels, the model takes 384", STATISTICS],
    ),
    "beit_large_p16_512": (
        supervised(512, 1024, **WRONG),
        [*NAMES, "RandomResizedCrop: crops have 224 pixels, the model takes 512", STATISTICS],
    ),
    "beit_base_p16_224_ft_1k": (
        fine_tuning(), [r"dataloader.val, Normalize: mean and std are \[\[123.675, .* are 0.5"],
    ),
    "beit_base_p16_224_pt_1k": (pretraining(), []),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_passl_loads_and_its_mistakes_are_named(name: str, tmp_path: Path) -> None:
    content, mistakes = FILES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = get_config(path)
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == len(mistakes)
    for message, mistake in zip(messages, mistakes, strict=True):
        assert re.search(mistake, message), message
    assert config.lr_scheduler.learning_rate == 3e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shipped = get_config(f"configs/beit/{name}.yaml").model
    assert shipped.architecture == config.model.architecture and shipped.head == config.model.head
    assert shipped.name == config.model.name


@pytest.mark.parametrize("name", FILES)
def test_the_model_of_a_shipped_file_is_that_of_our_config(name: str) -> None:
    """The shapes of all parameters, at the file's sizes except the depth."""
    model = Model(f"configs/beit/{name}.yaml", ["model.architecture.depth=1"])
    comment = (ROOT / "configs" / "beit" / f"{name}.yaml").read_text()
    ours = re.findall(r"-cfg=(\w+)", comment)[0]
    keys: list[Any] = ["MODEL.DEPTH", 1, "MODEL.NUM_CLASSES", 1000]
    config = beit.get_config(ours, keys)
    if config.TASK == "pretrain":
        assert isinstance(model.backbone, BeitForMaskedImageModeling)
        expected: Any = beit.build_mim(config)
        found = dict(model.backbone.state_dict())
    else:
        expected = beit.build_beit(config)
        state = model.state_dict()
        found = {
            re.sub(r"^backbone\.|(?<=^head\.)(fc_cls|head)\.", "", key): value for key, value in state.items()
        }
    shapes = {key: value.shape for key, value in expected.state_dict().items()}
    assert {key: value.shape for key, value in found.items()} == shapes
    assert model.backbone.blocks[0].gamma_1.mean().item() == pytest.approx(config.MODEL.INIT_VALUES)


# passl_v110/modeling/backbones/beit.py of PASSL on the same weights and images: Beit(img_size=12, patch_size=4,
# embed_dim=24, depth=2, num_heads=3, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1), then head.fc_cls.
PASSLS_LOGITS = [
    [-0.49200, -0.47777, -0.75827, -0.21175, -0.43213],
    [-0.94366, 0.30686, 0.05462, -0.52075, -1.38518],
]


@pytest.mark.parametrize("head", ["fc_cls", "head"])
def test_the_documented_way_to_load_weights(head: str, tmp_path: Path) -> None:
    """`set_dict` of a file of PASSL gives the logits of our model with the same file, and of a NumPy forward pass."""
    unilm = publishers.unilm_classifier(np.random.default_rng(0))
    path = tmp_path / "weights.pdparams"
    write(path, publishers.passl(unilm, head))
    name = {"fc_cls": "beit_base_p16_224", "head": "beit_base_p16_224_ft_1k"}[head]
    sizes = [f"model.architecture.{key}={value}" for key, value in TINY.items()]
    model = Model(
        f"configs/beit/{name}.yaml", [*sizes, "model.head.in_channels=24", "model.head.num_classes=5"]
    )
    model.set_dict(paddle.load(str(path)))
    model.eval()
    ours = tiny_beit()
    load_pretrained(ours, path)
    images = np.random.default_rng(1).standard_normal((2, 3, 12, 12)).astype(np.float32)
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images)).numpy()
        np.testing.assert_array_equal(logits, ours(paddle.to_tensor(images)).numpy())
    expected = classify(unilm, images, 3)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    np.testing.assert_allclose(logits, PASSLS_LOGITS, atol=2e-5)
    assert set(model.state_dict()) == {key for key in read(path).tree if not key.endswith("position_index")}


def test_pretraining() -> None:
    """The backbone with a mask and the head give PASSL's dictionary of losses."""
    unilm = publishers.unilm_mim(np.random.default_rng(2))
    sizes = TINY | {
        "vocab_size": 11,
        "use_abs_pos_emb": False,
        "use_shared_rel_pos_bias": True,
        "init_values": 0.1,
    }
    model = build_backbone({"name": "VisionTransformerForMaskedImageModeling", **sizes})
    load_pretrained(model, publishers.unilm_file(unilm))
    model.eval()
    head = build_head({"name": "BEiTPTHead", "num_classes": 1000, "in_channels": 24})
    rng = np.random.default_rng(3)
    images, mask = rng.standard_normal((2, 3, 12, 12)).astype(np.float32), rng.random((2, 9)) < 0.5
    with paddle.no_grad():
        logits = model(paddle.to_tensor(images), paddle.to_tensor(mask))
    expected = predict_tokens(unilm, images, mask, 3, 0)[0]
    np.testing.assert_allclose(logits.numpy(), expected, atol=2e-5)
    labels = expected.argmax(-1)
    labels[0] = (labels[0] + 1) % 11
    losses = head(logits, paddle.to_tensor(labels))
    rows = np.exp(expected) / np.exp(expected).sum(-1, keepdims=True)
    assert losses["loss"].item() == pytest.approx(
        -np.log(rows[np.arange(len(labels)), labels]).mean(), rel=1e-4
    )
    assert losses["mlm_acc"].item() == pytest.approx(100 * (len(labels) - 1) / len(labels))


def test_arguments_that_are_left_out_have_passls_defaults() -> None:
    model = build_backbone({"name": "Beit", **TINY})
    names = {name for name, _ in model.named_parameters()}
    assert "pos_embed" in names and "blocks.0.attn.q_bias" in names
    assert not any("gamma" in name or "table" in name for name in names)
    tuned = build_backbone({"name": "VisionTransformerForFinetune", **TINY})
    assert not any("bias" in name.split(".")[-1] and "attn.q" in name for name, _ in tuned.named_parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_backbone({"name": "BEiT"}), "model.architecture: name is BEiT; expected one of Beit, Vision"),
        (lambda: build_backbone({}), "model.architecture: name is None"),
        (lambda: build_backbone({"name": "Beit", "image_size": 224}), r"no argument image_size; did you mean img_size\?"),
        (lambda: build_backbone({"name": "Beit", "xyz": 1}), "no argument xyz; it has img_size, patch_size"),
        (lambda: build_head({"name": "BeitClsHead"}), "model.head: name is BeitClsHead; expected one of BEiTClsHead"),
        (lambda: build_head({"name": "BEiTFTHead"}), "BEiTFTHead needs in_channels and num_classes"),
        (lambda: get_config("configs/beit/beit_base_p16_224.yaml", ["model.hed.x=1"]), "there is no key model.hed.x"),
        (lambda: get_config("configs/beit/beit_base_p16_224.yaml", ["model.name"]), "expected key.key=value"),
        (lambda: build_backbone(None), "model.architecture: got None; expected a section with name and arguments"),
        (lambda: build_backbone({"name": "Beit", "img_size": [9, 9]}), r"img_size = \[9, 9\]; expected a whole number of 1"),
        (lambda: build_backbone({"name": "Beit", "num_heads": 0}), "num_heads = 0; expected a whole number of 1 or more"),
        (lambda: build_backbone({"name": "Beit", "drop_rate": "x"}), "drop_rate = 'x'; expected a number"),
        (lambda: build_backbone({"name": "Beit", "use_abs_pos_emb": 1}), "use_abs_pos_emb = 1; expected True or False"),
        (lambda: build_head({"name": "BEiTClsHead", "num_classes": "a"}), "model.head: num_classes = 'a'; expected a whole"),
    ],
)  # fmt: skip
def test_mistakes_of_users(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="does not exist; configs/beit has beit_base_p16_224, beit_base"
    ):
        get_config("configs/beit/beit_base_p16_225.yaml")
    file = tmp_path / "a.yaml"
    for text, message in (
        ("- 1\n", "holds list, expected sections"),
        ("a: [\n", "not a valid YAML file"),
        ("model: [1]\n", r"a\.yaml: model is \[1\]; expected a section"),
        ("model: {head: a}\n", r"a\.yaml: model\.head is 'a'; expected a section"),
        ("dataloader: {train: 3}\n", r"a\.yaml: dataloader\.train is 3; expected a section"),
        (
            "dataloader: {train: {dataset: {transforms: [a]}}}\n",
            r"train\.dataset\.transforms: expected a list",
        ),
        ("a: 2020-01-01\n", "datetime.date'> is not a valid type"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            get_config(file)
    file.write_text(
        "model: {head: {name: [a]}}\ndataloader: {train:, eval: {dataset: {transforms: [{name: 3}]}}}\n"
    )
    assert (
        get_config(file).dataloader.train is None
    )  # empty sections, and names of other types, are not mistakes here


def test_training_with_a_file_of_passl_says_what_to_use() -> None:
    with pytest.raises(ValueError, match=r"is a config of PASSL: .*-cfg=beit_base_patch16_224"):
        beit.get_config(ROOT / "configs" / "beit" / "beit_base_p16_224.yaml")
