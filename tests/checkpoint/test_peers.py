"""The libraries themselves: their files load here, ours load there. Deselected by default (marker `peers`).

Needs torch, timm and transformers, which the test extras do not install; needs no Paddle:
python -m pytest -m peers tests/checkpoint/test_peers.py
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.translate import from_canonical
from beit.positions import (
    num_table_rows,
    resample_patch_embedding,
    resize_absolute_position,
    resize_relative_position_bias,
)
from tests.checkpoint import publishers
from tests.reference_numpy import classify, encode, layer_norm

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
TOLERANCE = 1e-5
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((2, 3, 12, 12)).astype(np.float32)


def unilm_of(path):
    """State in unilm's names from any file, by this package, and what it was."""
    state, info = open_checkpoint(path)
    assert info.unknown == ()
    return from_canonical(state, "unilm"), info


def randomize(torch, model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (0.5 if parameter.ndim == 1 else 0))
    return model.eval()


def difference(torch, model, expected, pick=lambda output: output):
    with torch.no_grad():
        return np.abs(pick(model(torch.from_numpy(IMAGES))).numpy() - expected).max()


@pytest.mark.parametrize("pooling", ["avg", "token"])
def test_timm(tmp_path, pooling):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    options = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.models.beit.Beit(
        **options, init_values=0.1, use_abs_pos_emb=False, use_rel_pos_bias=True, global_pool=pooling
    )
    randomize(torch, model)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    unilm, info = unilm_of(tmp_path / "theirs.pth")
    assert (info.publisher, info.kind) == ("timm", "classifier")
    assert difference(torch, model, classify(unilm["model"], IMAGES, 3)) < TOLERANCE

    convert(tmp_path / "theirs.pth", tmp_path / "ours", publisher="timm")
    again = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    assert difference(torch, again, classify(unilm["model"], IMAGES, 3)) < TOLERANCE


RECTANGLE = publishers.unilm_classifier(RNG)
"""A classifier of images of 12 x 20 pixels."""
for _name in RECTANGLE:
    if _name.endswith("bias_table"):
        RECTANGLE[_name] = publishers.draw(RNG, num_table_rows((3, 5)), 3)
WIDE_IMAGES = RNG.standard_normal((2, 3, 12, 20)).astype(np.float32)
NAMES = ["ant", "bee", "cow", "dog", "emu"]


def described(path, state, crop, **more):
    """Weights with the sidecar of this package."""
    write(path, {"model": state})
    content = {"mean": [0.4] * 3, "std": [0.3] * 3, "crop_pct": crop, "interpolation": "bicubic", **more}
    sidecar = {"pretrained_cfg": {**content, "exif_orientation": True}, "class_names": NAMES}
    path.with_suffix(".pretrained_cfg.json").write_text(json.dumps(sidecar))
    return path


def wide_logits(state):
    return classify(state, WIDE_IMAGES, 3)


def test_timm_reads_names_crop_and_a_rectangle(tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    path = described(tmp_path / "beit_base.pdparams", RECTANGLE, 0.8, input_size=[3, 12, 20])
    convert(path, tmp_path / "ours", publisher="timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'ours'}", pretrained=True).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(WIDE_IMAGES)).numpy()
    assert np.abs(logits - wide_logits(RECTANGLE)).max() < TOLERANCE
    assert list(model.pretrained_cfg["label_names"]) == NAMES
    data = timm.data.resolve_data_config({}, model=model)
    assert (list(data["input_size"]), data["crop_pct"], list(data["mean"])) == ([3, 12, 20], 0.8, [0.4] * 3)


def test_transformers_reads_names_and_a_rectangle(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    path = described(tmp_path / "beit_base.pdparams", RECTANGLE, 0.8, input_size=[3, 12, 20])
    report = convert(path, tmp_path / "ours", publisher="huggingface")
    model = transformers.BeitForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert list(model.config.image_size) == [12, 20]
    assert [model.config.id2label[i] for i in range(5)] == NAMES
    assert model.config.label2id["cow"] == 2

    def logits():
        with torch.no_grad():
            return model(torch.from_numpy(WIDE_IMAGES)).logits.numpy()

    # transformers reads the table transposed; the report says so, and what it says mends it.
    assert np.abs(logits() - wide_logits(RECTANGLE)).max() > 1e-3
    assert "module.window_size = module.window_size[::-1]" in str(report)
    for module in model.modules():
        if hasattr(module, "relative_position_bias_table"):
            module.window_size = module.window_size[::-1]
    assert np.abs(logits() - wide_logits(RECTANGLE)).max() < TOLERANCE


@pytest.mark.parametrize(("crop", "mode"), [(0.8, "center"), (1.0, "center"), (1.0, "squash")])
def test_transformers_prepares_images_alike(tmp_path, crop, mode):
    transformers = pytest.importorskip("transformers")
    state = publishers.unilm_classifier(RNG)
    path = described(tmp_path / "beit_base.pdparams", state, crop, input_size=[3, 12, 12], crop_mode=mode)
    convert(path, tmp_path / "ours", publisher="huggingface")
    image = Image.fromarray(RNG.integers(0, 256, (40, 61, 3), dtype=np.uint8))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    theirs = processor(image, return_tensors="np")["pixel_values"][0]
    side = int(12 / crop)
    size = (12, 12) if mode == "squash" else (int(side * 61 / 40), side)
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    top, left = (side - 12) // 2, (size[0] - 12) // 2
    expected = (resized[top : top + 12, left : left + 12] - 0.4) / 0.3
    assert np.abs(theirs.transpose(1, 2, 0) - expected).max() < TOLERANCE


def test_torch_loads_written_pth_files(tmp_path):
    torch = pytest.importorskip("torch")
    tree = {
        "state_dict": {
            "matrix": RNG.standard_normal((3, 5)).astype(np.float32).T,
            "scalar": np.zeros((), np.int64),
            "empty": np.zeros((0, 3), np.float32),
            "half": np.ones(3, np.float16),
            "flags": np.array([True, False]),
        },
        "meta": {"dataset_meta": {"classes": ["käfer", "dog"]}, "epoch": 2**40, "shape": (1, 2, 3, 4)},
    }
    write(tmp_path / "x.pth", tree)
    for mmap in (False, True):
        loaded = torch.load(tmp_path / "x.pth", weights_only=True, mmap=mmap)
        assert loaded["meta"] == tree["meta"]
        for name, array in tree["state_dict"].items():
            np.testing.assert_array_equal(loaded["state_dict"][name].numpy(), array)
            assert loaded["state_dict"][name].is_contiguous()


def transformers_config(transformers, **options):
    return transformers.BeitConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=12,
        patch_size=4,
        layer_norm_eps=1e-6,
        vocab_size=11,
        num_labels=5,
        **options,
    )


def no_differences(info):
    return not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("original", [True, False])
def test_transformers_classifier(tmp_path, mean, original):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers_config(transformers, use_relative_position_bias=True, use_mean_pooling=mean)
    model = randomize(torch, transformers.BeitForImageClassification(config))
    model.save_pretrained(tmp_path / "theirs", save_original_format=original)
    unilm, info = unilm_of(tmp_path / "theirs")
    assert (info.publisher, info.kind) == ("huggingface", "classifier")
    expected = classify(unilm["model"], IMAGES, 3)
    assert difference(torch, model, expected, lambda output: output.logits) < TOLERANCE

    convert(tmp_path / "theirs", tmp_path / "ours", publisher="huggingface")
    again, loading = transformers.BeitForImageClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert no_differences(loading)
    assert difference(torch, again.eval(), expected, lambda output: output.logits) < TOLERANCE


@pytest.mark.parametrize("original", [True, False])
def test_transformers_pretraining(tmp_path, original):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers_config(transformers, use_shared_relative_position_bias=True, use_mask_token=True)
    model = randomize(torch, transformers.BeitForMaskedImageModeling(config))
    model.save_pretrained(tmp_path / "theirs", save_original_format=original)
    unilm, info = unilm_of(tmp_path / "theirs")
    assert (info.publisher, info.kind) == ("huggingface", "mim_v1")
    s = unilm["model"]
    tokens = layer_norm(encode(s, IMAGES, 3), s["norm.weight"], s["norm.bias"])[:, 1:]
    expected = tokens @ s["lm_head.weight"].T + s["lm_head.bias"]
    assert difference(torch, model, expected, lambda output: output.logits) < TOLERANCE

    convert(tmp_path / "theirs", tmp_path / "ours", publisher="huggingface")
    again, loading = transformers.BeitForMaskedImageModeling.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert no_differences(loading)
    assert difference(torch, again.eval(), expected, lambda output: output.logits) < TOLERANCE


@pytest.mark.parametrize("original", [True, False])
def test_transformers_segmentation(tmp_path, original):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers_config(transformers, use_relative_position_bias=True, out_indices=[1, 2, 3, 4])
    model = randomize(torch, transformers.BeitForSemanticSegmentation(config))
    model.save_pretrained(tmp_path / "theirs", save_original_format=original)
    _, info = unilm_of(tmp_path / "theirs")
    assert (info.publisher, info.kind, info.feature_layers["trained"]) == (
        "huggingface",
        "segmentation",
        (1, 2, 3, 4),
    )
    convert(tmp_path / "theirs", tmp_path / "ours", publisher="huggingface")
    again, loading = transformers.BeitForSemanticSegmentation.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert no_differences(loading)
    with torch.no_grad():
        logits = model(torch.from_numpy(IMAGES)).logits.numpy()
    assert difference(torch, again.eval(), logits, lambda output: output.logits) < TOLERANCE


def test_flava_codebook(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.FlavaImageCodebookConfig(hidden_size=8, vocab_size=16)
    torch.save(transformers.FlavaImageCodebook(config).state_dict(), tmp_path / "codebook.bin")
    state, info = open_checkpoint(tmp_path / "codebook.bin")
    assert (info.kind, info.unknown) == ("dalle_encoder", ())
    assert state.keys() == publishers.dalle(RNG).keys()


def test_flava_reads_what_we_write(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.FlavaImageCodebookConfig(hidden_size=8, vocab_size=16)
    model = randomize(torch, transformers.FlavaImageCodebook(config))
    torch.save(model.state_dict(), tmp_path / "codebook.bin")
    convert(tmp_path / "codebook.bin", tmp_path / "ours", publisher="huggingface")
    again, loading = transformers.FlavaImageCodebook.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert no_differences(loading)
    assert (again.config.hidden_size, again.config.vocab_size) == (8, 16)
    images = torch.from_numpy(RNG.random((1, 3, 32, 32)).astype(np.float32))
    assert torch.equal(model.blocks(images), again.blocks(images))


def test_segmentation_layers_of_transformers_can_be_set_as_the_report_says(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write(tmp_path / "seg.pth", {"state_dict": publishers.unilm_segmentation(RNG, depth=12)})
    report = convert(tmp_path / "seg.pth", tmp_path / "ours", publisher="huggingface")
    assert "takes the outputs of blocks 1, 3, 5, 9 (from 0), the head was trained on 3, 5, 7, 11" in str(
        report
    )
    assert "model.config._out_indices = [5, 7, 9, 13]" in str(report)
    model = transformers.BeitForSemanticSegmentation.from_pretrained(tmp_path / "ours").eval()
    taken = []
    model.fpn.register_forward_pre_hook(lambda module, given: taken.append(given[0]))
    outputs = []
    for index in (3, 5, 7, 11):
        model.beit.layers[index].register_forward_hook(
            lambda module, given, output: outputs.append(output[0] if isinstance(output, tuple) else output)
        )
    with torch.no_grad():
        model(torch.from_numpy(IMAGES))
        assert not torch.equal(taken[0][0].flatten(2), outputs[0][:, 1:].transpose(1, 2))
        outputs.clear()
        model.config._out_indices = [5, 7, 9, 13]
        model(torch.from_numpy(IMAGES))
    for feature_map, output in zip(taken[1], outputs, strict=True):
        assert torch.equal(feature_map.flatten(2), output[:, 1:].transpose(1, 2))


def test_resizes_equal_timms():
    torch, layers = pytest.importorskip("torch"), pytest.importorskip("timm.layers")
    table = RNG.standard_normal((732, 2)).astype(np.float32)
    theirs = layers.resize_rel_pos_bias_table(torch.from_numpy(table), (24, 24), (2212, 2)).numpy()
    ours = resize_relative_position_bias(table, (14, 14), (24, 24), "linear")
    assert np.abs(theirs - ours).max() < TOLERANCE
    weight = RNG.standard_normal((2, 3, 16, 16)).astype(np.float32)
    for side in (14, 32):
        theirs = layers.resample_patch_embed(torch.from_numpy(weight), [side, side]).numpy()
        assert np.abs(theirs - resample_patch_embedding(weight, side)).max() < 1e-4
    positions = RNG.standard_normal((1, 197, 3)).astype(np.float32)
    image = torch.from_numpy(positions[:, 1:].reshape(1, 14, 14, 3)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(image, size=(24, 20), mode="bicubic", align_corners=False)
    theirs = resized.permute(0, 2, 3, 1).reshape(1, -1, 3).numpy()
    assert np.abs(theirs - resize_absolute_position(positions, (14, 14), (24, 20))[:, 1:]).max() < TOLERANCE


def test_torch_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    write(tmp_path / "vit.pdparams", publishers.paddlevit(publishers.unilm_classifier(RNG)))
    convert(tmp_path / "vit.pdparams", tmp_path / "unilm.safetensors", publisher="unilm")
    assert (
        load_file(tmp_path / "unilm.safetensors")["blocks.0.attn.relative_position_index"].dtype
        == torch.int64
    )
