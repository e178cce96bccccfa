"""Conversion: every format in every container, round trips, what is stated beside the tensors, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.models.load import load_pretrained
from tests.checkpoint import publishers
from tests.checkpoint.sources import NAMES, UNILM, described, write_source
from tests.tiny import largest_difference, tiny_beit

FORMS = ("canonical", "paddlevit", "passl", "unilm", "timm", "huggingface", "openmmlab")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_a_round_trip_changes_nothing(tmp_path, form, suffix):
    source = write_source(tmp_path)
    there, back = tmp_path / f"there{suffix}", tmp_path / "back.pdparams"
    convert(source, there, publisher=form)
    report = convert(there, back, publisher="paddlevit")
    assert report.info.publisher == form
    first, second = read(source).tree, read(back).tree
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array)
        assert second[name].dtype == array.dtype


@pytest.mark.parametrize("form", FORMS)
def test_converted_files_give_the_same_logits(tmp_path, form):
    source = write_source(tmp_path)
    path = tmp_path / "converted.safetensors"
    convert(source, path, publisher=form)
    model = tiny_beit()
    load_pretrained(model, path)
    assert largest_difference(model, UNILM, 3, np.random.default_rng(1), 12) < 1e-5


def test_safetensors_files_keep_the_preprocessing(tmp_path):
    source = write_source(tmp_path)
    path = tmp_path / "renamed.safetensors"
    convert(source, path)
    found = load_pretrained(tiny_beit(), path).info.preprocessing
    assert (found.mean, found.crop_pct, found.image_size) == ((0.5, 0.5, 0.5), 0.9, 12)


def test_paddlevit_form_has_index_buffers(tmp_path):
    source = write_source(tmp_path)
    convert(source, tmp_path / "plain.pdparams")
    plain = read(tmp_path / "plain.pdparams").tree
    assert not [name for name in plain if name.endswith("index")]
    convert(tmp_path / "plain.pdparams", tmp_path / "vit.pdparams", publisher="paddlevit")
    index = read(tmp_path / "vit.pdparams").tree["blocks.1.attn.relative_position_index"]
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, publishers.index_buffer(3))


def test_errors(tmp_path):
    source = write_source(tmp_path)
    with pytest.raises(
        ValueError, match=r"the form canonical are a file that ends in \.pdparams or \.safetensors"
    ):
        convert(source, tmp_path / "folder")
    with pytest.raises(
        ValueError, match=r"the form passl are a file that ends in \.pdparams or \.safetensors"
    ):
        convert(source, tmp_path / "x.pth", publisher="passl")
    with pytest.raises(
        ValueError, match=r"the form timm are a file that ends in \.pdparams or \.safetensors or \.pth"
    ):
        convert(source, tmp_path / "x.bin", publisher="timm")
    incomplete = {
        name: array for name, array in publishers.paddlevit(UNILM).items() if name != "blocks.1.norm2.bias"
    }
    write(tmp_path / "incomplete.pdparams", incomplete)
    with pytest.raises(
        ValueError, match=r"incomplete.pdparams \(paddlevit classifier\) lacks blocks\.1\.norm2\.bias"
    ):
        convert(tmp_path / "incomplete.pdparams", tmp_path / "out.pdparams")
    write(tmp_path / "odd.pdparams", {**publishers.paddlevit(UNILM), "blocks.0.odd": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match=r"holds unknown tensors: blocks\.0\.odd"):
        convert(tmp_path / "odd.pdparams", tmp_path / "out.pdparams")
    write(
        tmp_path / "mim.pdparams",
        publishers.unilm_file(publishers.unilm_mim(np.random.default_rng(3), version=2)),
    )
    with pytest.raises(
        ValueError,
        match="timm has no format for mim_v2 checkpoints; publishers that do: canonical, openmmlab",
    ):
        convert(tmp_path / "mim.pdparams", tmp_path / "out.pdparams", publisher="timm")
    assert not (tmp_path / "out.pdparams").exists()


def test_a_file_without_the_tensor_that_tells_a_size_is_incomplete(tmp_path):
    rng = np.random.default_rng(3)
    trees = {
        "blocks.output.conv": publishers.dalle(rng),
        "lm_head": publishers.unilm_mim(rng, version=2),
        "decode_head.fpn_bottleneck": publishers.unilm_segmentation(rng),
    }
    for part, tree in trees.items():
        whole = tmp_path / "whole.pth"
        write(whole, {"model": tree})
        convert(whole, tmp_path / "again.pdparams")
        write(whole, {"model": {name: array for name, array in tree.items() if not name.startswith(part)}})
        with pytest.raises(ValueError, match=rf"whole\.pth .* lacks .*{part}.*: the file is incomplete"):
            convert(whole, tmp_path / "again.pdparams")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors", ".pth", ""])
def test_every_form_keeps_names_and_preprocessing(tmp_path, form, suffix):
    if suffix == "" and form not in ("timm", "huggingface"):
        suffix = ".pdparams"
    if suffix == ".pth" and form in ("canonical", "paddlevit", "passl"):
        suffix = ".safetensors"
    target = tmp_path / f"target{suffix}"
    convert(described(tmp_path / "source.pdparams", crop_mode="center"), target, publisher=form)
    info = open_checkpoint(target).info
    assert (info.publisher, info.class_names) == (form, NAMES)
    found = info.preprocessing
    assert (found.mean, found.std, found.interpolation) == ((0.4,) * 3, (0.3,) * 3, "bilinear")
    assert (found.crop_pct, found.image_size, found.squash) == (0.8, 12, False)


@pytest.mark.parametrize("key", ["dataset_meta", "CLASSES"])
def test_openmmlab_files_hold_the_names_in_their_meta(tmp_path, key):
    convert(described(tmp_path / "source.pdparams"), tmp_path / "mm.pth", publisher="openmmlab")
    tree = read(tmp_path / "mm.pth").tree
    assert tree["meta"] == {"dataset_meta": {"classes": list(NAMES)}}
    if key == "CLASSES":  # mmcls 0.x
        tree["meta"] = {"CLASSES": list(NAMES)}
    write(tmp_path / "theirs.pth", tree)
    assert open_checkpoint(tmp_path / "theirs.pth").info.class_names == NAMES


@pytest.mark.parametrize("form", ["unilm", "openmmlab", "timm", "huggingface"])
def test_pth_files_are_those_of_torch(tmp_path, form):
    source = write_source(tmp_path)
    convert(source, tmp_path / "a.pth", publisher=form)
    convert(source, tmp_path / "b.pth", publisher=form)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    contents = read(tmp_path / "a.pth")
    assert contents.container == "torch zip"
    convert(tmp_path / "a.pth", tmp_path / "back.pdparams", publisher="paddlevit")
    np.testing.assert_equal(read(tmp_path / "back.pdparams").tree, read(source).tree)


def test_what_a_form_has_no_place_for_is_named(tmp_path):
    masked = {**UNILM, "mask_token": np.ones((1, 1, 24), np.float32)}
    path = described(tmp_path / "source.pdparams", masked)
    for form in ("timm", "paddlevit"):
        report = convert(path, tmp_path / f"{form}.safetensors", publisher=form)
        assert f"note: {form} has no place for mask_token: left out" in str(report)
        assert "mask_token" not in read(tmp_path / f"{form}.safetensors").tree
    report = convert(path, tmp_path / "unilm.pth", publisher="unilm")
    assert "class names are in unilm.pretrained_cfg.json, which unilm does not read" in str(report)


def test_files_of_an_earlier_conversion_do_not_describe_this_one(tmp_path):
    first = described(tmp_path / "first.pdparams")
    second = described(tmp_path / "second.pdparams", crop_pct=0.9)
    convert(first, tmp_path / "x.pth", publisher="unilm")
    convert(second, tmp_path / "x.safetensors", publisher="unilm")
    assert open_checkpoint(tmp_path / "x.safetensors").info.preprocessing.crop_pct == 0.9
    convert(first, tmp_path / "hub", publisher="huggingface")
    write(tmp_path / "unknown.pdparams", {"model": dict(UNILM)})
    with pytest.raises(ValueError, match=r"holds preprocessor_config\.json of other weights"):
        convert(tmp_path / "unknown.pdparams", tmp_path / "hub", publisher="huggingface")


def test_what_a_user_wrote_beside_the_weights_stays(tmp_path):
    """`x.pdparams` is described by the same file as `x.pth`, from which it is converted."""
    convert(described(tmp_path / "source.pdparams"), tmp_path / "x.pth", publisher="unilm")
    file = tmp_path / "x.pretrained_cfg.json"
    ours = json.loads(file.read_text())
    file.write_text(json.dumps({"note": "from the camera in the hall", **ours, "class_names": list("vwxyz")}))
    report = convert(tmp_path / "x.pth", tmp_path / "x.pdparams")
    assert "x.pretrained_cfg.json states note, which is not read" in str(report)
    assert json.loads(file.read_text()) == {
        "note": "from the camera in the hall",
        **ours,
        "class_names": list("vwxyz"),
    }
