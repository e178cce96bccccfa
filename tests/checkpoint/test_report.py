"""The preprocessing of a checkpoint, and contradictions between checkpoint and config."""

from __future__ import annotations

import datetime
import pickle
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.files import Contents
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.translate import Checkpoint, to_canonical
from beit.config import get_config
from beit.metadata.files import Metadata
from beit.models.load import load_pretrained
from tests.checkpoint import publishers
from tests.tiny import tiny_beit

RNG = np.random.default_rng(0)
CLASSIFIER = publishers.unilm_classifier(RNG)
MIM = publishers.unilm_mim(RNG)
HALF, IMAGENET = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)

# (tree, name, mean, crop, words of the source)
KNOWN = {
    "PaddleViT": (publishers.paddlevit(CLASSIFIER), "beit.pdparams", HALF, 0.9, "BEiT v1 only"),
    "PASSL": (publishers.passl(CLASSIFIER), "x.pdparams", HALF, 0.9, "BEiT v1 only"),
    "PaddleClas": (
        publishers.paddleclas(publishers.unilm_classifier(RNG, pooling="token")),
        "x",
        IMAGENET,
        0.875,
        "BEiT v2",
    ),
    "unilm v1": (
        publishers.unilm_file(CLASSIFIER),
        "beit_base_patch16_224_pt22k_ft1k.pth",
        HALF,
        0.875,
        "name says",
    ),
    "unilm v2": (
        publishers.unilm_file(CLASSIFIER),
        "beitv2_large_patch16_224_pt1k.pth",
        IMAGENET,
        0.875,
        "name says",
    ),
    "unilm unknown": (
        publishers.unilm_file(CLASSIFIER),
        "checkpoint-99.pth",
        None,
        0.875,
        "weights do not show",
    ),
    "unilm MIM v2": (
        publishers.unilm_file(publishers.unilm_mim(RNG, version=2)),
        "x",
        IMAGENET,
        None,
        "aggregation",
    ),
    "unilm MIM 1k": (
        publishers.unilm_file(publishers.unilm_mim(RNG, positions=True)),
        "beit_base",
        IMAGENET,
        None,
        "1k",
    ),
    "mmselfsup v1": (publishers.openmmlab(MIM), "x", IMAGENET, None, "OpenMMLab pre-trains"),
    "transformers": (publishers.huggingface(CLASSIFIER), "x", HALF, 1.0, "BEiT v1 only"),
    "UPerNet": (
        publishers.unilm_file(publishers.unilm_segmentation(RNG), "state_dict"),
        "x",
        IMAGENET,
        None,
        "UPerNet",
    ),
    "VQ-KD": (publishers.unilm_file(publishers.unilm_vqkd(RNG)), "x", HALF, None, "VQ-KD"),
    "DALL-E": (publishers.dalle(RNG), "encoder.pkl", (-0.125,) * 3, None, "map_pixels"),
}


def named(tree: Any, name: str, metadata: dict[str, Any] | None = None) -> Checkpoint:
    """A file of this name, with the JSON beside it."""
    return to_canonical(Contents(tree, "pickle"), name, Metadata(metadata or {}))


@pytest.mark.parametrize("case", KNOWN)
def test_preprocessing_of_each_publisher(case):
    tree, name, mean, crop, source = KNOWN[case]
    found = named(tree, name).info.preprocessing
    assert (found.mean, found.crop_pct) == (mean, crop)
    assert source in found.source


def test_image_sizes_and_values_of_json_files():
    large = {"model": publishers.unilm_classifier(RNG, side=24, patch=16)}
    found = named(publishers.with_index(large["model"]), "beit_base").info.preprocessing
    assert (found.image_size, found.crop_pct) == (384, 1.0)
    processor = {
        "image_mean": [0.1] * 3,
        "image_std": [0.2] * 3,
        "resample": 3,
        "size": 12,
        "do_center_crop": False,
    }
    metadata = {"preprocessor_config": processor}
    found = named(publishers.huggingface(CLASSIFIER), "x", metadata).info.preprocessing
    assert (found.mean, found.interpolation, found.squash) == ((0.1,) * 3, "bicubic", True)
    assert open_checkpoint(publishers.huggingface(CLASSIFIER))[1].preprocessing.squash
    timm_large = named(publishers.unilm_classifier(RNG, depth=24), "beitv2_large.safetensors").info
    assert (timm_large.publisher, timm_large.preprocessing.crop_pct) == ("timm", 0.95)


def test_dalle_mean_and_std_are_map_pixels():
    found = open_checkpoint(publishers.dalle(RNG))[1].preprocessing
    x = np.linspace(0, 1, 5)
    np.testing.assert_allclose((x - found.mean[0]) / found.std[0], 0.8 * x + 0.1)


def test_feature_layers_of_segmentation_files():
    """transformers keeps hidden state k when k + 1 is listed; the weights were trained with block outputs 3, 5, 7, 11."""
    unilm = publishers.unilm_segmentation(RNG, depth=12)
    assert open_checkpoint({"state_dict": unilm})[1].feature_layers == {"trained": (3, 5, 7, 11)}
    info = named(publishers.huggingface(unilm), "x", {"out_indices": [3, 5, 7, 11]}).info
    assert info.feature_layers == {"trained": (3, 5, 7, 11), "huggingface": (1, 3, 5, 9)}
    assert open_checkpoint(publishers.unilm_file(CLASSIFIER))[1].feature_layers == {}


def config(*options):
    return get_config(None, ["DATA.IMAGE_SIZE", 12, "MODEL.NUM_CLASSES", 5, "MODEL.PATCH_SIZE", 4, *options])


CONTRADICTIONS = {
    "DATA.IMAGENET_MEAN": [0.485, 0.456, 0.406],
    "DATA.IMAGENET_STD": [0.229, 0.224, 0.225],
    "DATA.CROP_PCT": 0.875,
    "DATA.INTERPOLATION": "bilinear",
    "DATA.IMAGE_SIZE": 16,
    "MODEL.USE_MEAN_POOLING": False,
    "MODEL.NUM_CLASSES": 7,
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_a_config_that_contradicts_the_checkpoint(key):
    report = load_pretrained(tiny_beit(), publishers.paddlevit(CLASSIFIER))
    assert report.mismatches(config()) == []
    (sentence,) = report.mismatches(config(key, CONTRADICTIONS[key]))
    assert sentence.startswith(f"{key} is ")


def test_objects_that_are_not_read_are_reported(tmp_path):
    tree = {**publishers.unilm_file(CLASSIFIER), "since": datetime.datetime(2024, 1, 2)}
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(tree))
    assert "note: not read: datetime.datetime" in str(load_pretrained(tiny_beit(), tmp_path / "m.pdparams"))


def test_unknown_preprocessing_contradicts_nothing():
    report = load_pretrained(tiny_beit(), publishers.unilm_file(CLASSIFIER))
    assert (
        report.mismatches(config("DATA.IMAGENET_MEAN", [0.485, 0.456, 0.406], "DATA.CROP_PCT", 0.875)) == []
    )
    assert "mean and std unknown" in str(report)


def test_text_of_a_report():
    model = tiny_beit(side=4, classes=7)
    report = load_pretrained(model, {"model": publishers.with_index(CLASSIFIER), "epoch": 1})
    text = str(report)
    assert text.startswith("state in memory: unilm classifier (memory, under 'model')\n")
    for line in (
        f"taken {len(report.taken)} tensors as they are",
        "reshaped 8 (from (out, in) to (in, out)): blocks.0.attn.proj.weight, ",
        "resized 2 ([28, 3] to [52, 3]): blocks.0.attn.relative_position_bias_table",
        "left out 2 (index buffer, rebuilt from the grid)",
        "left out 2 (5 classes in the file, 7 in the model): head.weight, head.bias",
        "newly initialized 2 (5 classes in the file, 7 in the model)",
        "images: mean and std unknown, size 12, crop 0.875, bicubic, mean pooling",
    ):
        assert line in text
    assert (
        f"{sum(v.size for k, v in model.state_dict().items() if not k.startswith('head.')):,} parameters"
        in text
    )
