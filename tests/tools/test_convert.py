"""`python -m beit convert`: every format in every container, round trips, and errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.config import dump, get_config
from beit.models.load import load_pretrained
from beit.tools.convert import main
from tests.checkpoint import publishers
from tests.tiny import largest_difference, tiny_beit

FORMS = ("canonical", "paddlevit", "passl", "unilm", "timm", "huggingface", "openmmlab")
UNILM = publishers.unilm_classifier(np.random.default_rng(0))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "beit_base_source.pdparams"
    write(path, publishers.paddlevit(UNILM))
    return path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pdparams", ".safetensors"])
def test_a_round_trip_changes_nothing(source, tmp_path, form, suffix):
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
def test_converted_files_give_the_same_logits(source, tmp_path, form):
    path = tmp_path / "converted.safetensors"
    convert(source, path, publisher=form)
    model = tiny_beit()
    load_pretrained(model, path)
    assert largest_difference(model, UNILM, 3, np.random.default_rng(1), 12) < 1e-5


def test_safetensors_files_keep_the_preprocessing(source, tmp_path):
    path = tmp_path / "renamed.safetensors"
    convert(source, path)
    found = load_pretrained(tiny_beit(), path).info.preprocessing
    assert (found.mean, found.crop_pct, found.image_size) == ((0.5, 0.5, 0.5), 0.9, 12)


def test_paddlevit_form_has_index_buffers(source, tmp_path):
    convert(source, tmp_path / "plain.pdparams")
    plain = read(tmp_path / "plain.pdparams").tree
    assert not [name for name in plain if name.endswith("index")]
    convert(tmp_path / "plain.pdparams", tmp_path / "vit.pdparams", publisher="paddlevit")
    index = read(tmp_path / "vit.pdparams").tree["blocks.1.attn.relative_position_index"]
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, publishers.index_buffer(3))


def test_huggingface_folder(source, tmp_path):
    convert(source, tmp_path / "hub", publisher="huggingface")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    expected = {
        "architectures": ["BeitForImageClassification"],
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 96,
        "image_size": 12,
        "patch_size": 4,
        "layer_norm_eps": 1e-6,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": True,
        "use_shared_relative_position_bias": False,
        "use_mean_pooling": True,
    }
    assert {key: config[key] for key in expected} == expected
    assert len(config["id2label"]) == 5
    processor = json.loads((tmp_path / "hub/preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.5, 0.5, 0.5]
    written = load_file(tmp_path / "hub/model.safetensors")
    assert written.keys() == publishers.huggingface(UNILM).keys()
    assert load_pretrained(tiny_beit(), tmp_path / "hub").info.preprocessing.mean == (0.5, 0.5, 0.5)


def test_huggingface_folders_of_other_kinds(tmp_path):
    rng = np.random.default_rng(2)
    write(tmp_path / "mim.pdparams", publishers.unilm_file(publishers.unilm_mim(rng)))
    convert(tmp_path / "mim.pdparams", tmp_path / "mim", publisher="huggingface")
    config = json.loads((tmp_path / "mim/config.json").read_text())
    assert (config["architectures"], config["vocab_size"]) == (["BeitForMaskedImageModeling"], 11)
    assert (config["use_mask_token"], config["use_shared_relative_position_bias"]) == (True, True)
    assert config["use_mean_pooling"]  # False would ask for a second final norm
    segmentation = publishers.unilm_segmentation(rng, depth=12)
    write(tmp_path / "seg.pdparams", {"state_dict": segmentation})
    convert(tmp_path / "seg.pdparams", tmp_path / "seg", publisher="huggingface")
    config = json.loads((tmp_path / "seg/config.json").read_text())
    assert (config["out_indices"], config["auxiliary_channels"]) == ([3, 5, 7, 11], 6)
    counters = [
        v for k, v in load_file(tmp_path / "seg/model.safetensors").items() if k.endswith("batches_tracked")
    ]
    assert {counter.shape for counter in counters} == {()}  # torch refuses [1]


def test_timm_folder(source, tmp_path):
    convert(source, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert (config["global_pool"], config["num_classes"]) == ("avg", 5)
    assert config["pretrained_cfg"]["input_size"] == [3, 12, 12]
    assert config["model_args"]["embed_dim"] == 24
    assert "global_pool" not in config["model_args"]
    written = load_file(tmp_path / "timm/model.safetensors")
    assert written.keys() == UNILM.keys()
    token = publishers.unilm_classifier(
        np.random.default_rng(1), pooling="token", tables=False, positions=True, scale=False
    )
    write(tmp_path / "token.pdparams", publishers.unilm_file(token))
    (tmp_path / "token.pretrained_cfg.json").write_text('{"model_args": {"num_heads": 3}}')
    convert(tmp_path / "token.pdparams", tmp_path / "token", publisher="timm")
    arguments = json.loads((tmp_path / "token/config.json").read_text())["model_args"]
    expected = {
        "global_pool": "token",
        "use_abs_pos_emb": True,
        "use_rel_pos_bias": False,
        "init_values": None,
    }
    assert {key: arguments[key] for key in expected} == expected


def test_averaged_weights_are_optional(tmp_path):
    averaged = {name: array + 1 for name, array in UNILM.items()}
    write(
        tmp_path / "training.pdparams",
        {"model": publishers.paddlevit(UNILM), "model_ema": publishers.paddlevit(averaged)},
    )
    for flags, expected in (([], averaged), (["--ema"], averaged), (["--no-ema"], UNILM)):
        main([str(tmp_path / "training.pdparams"), str(tmp_path / "out.safetensors"), *flags])
        state, _ = open_checkpoint(read(tmp_path / "out.safetensors").tree)
        np.testing.assert_array_equal(state["cls_token"], expected["cls_token"])


def test_command_line_prints_the_report(source, tmp_path, capsys):
    main([str(source), str(tmp_path / "out.pdparams"), "--to", "unilm"])
    text = capsys.readouterr().out
    assert "beit_base_source.pdparams: paddlevit classifier (pickle)" in text
    assert "written as unilm" in text
    assert list(read(tmp_path / "out.pdparams").tree) == ["model"]
    with pytest.raises(SystemExit):
        main([str(source), "out.pdparams", "--to", "keras"])
    assert "invalid choice: 'keras'" in capsys.readouterr().err


def test_errors(source, tmp_path):
    with pytest.raises(ValueError, match=r"for canonical name a \.pdparams or \.safetensors file"):
        convert(source, tmp_path / "folder")
    with pytest.raises(ValueError, match=r"for passl name a \.pdparams or \.safetensors file"):
        convert(source, tmp_path / "x.pth", publisher="passl")
    with pytest.raises(ValueError, match=r"for timm name a \.pdparams or \.safetensors or \.pth file"):
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


NAMES = ("ant", "bee", "cow", "dog", "käfer")


def described(path, state=UNILM, **changes):
    """A file with the sidecar of this package."""
    write(path, {"model": dict(state)})
    content = {"mean": [0.4] * 3, "std": [0.3] * 3, "crop_pct": 0.8, "interpolation": "bilinear"}
    content |= {"input_size": [3, 12, 12]} | changes
    sidecar = {"pretrained_cfg": content, "class_names": list(NAMES)}
    path.with_suffix(".pretrained_cfg.json").write_text(json.dumps(sidecar))
    return path


def without_metadata(path):
    """A folder's weights without what this package notes inside, as its library writes them."""
    write(path / "model.safetensors", load_file(path / "model.safetensors"))


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


def test_timm_folders_state_names_and_statistics_where_timm_looks(tmp_path):
    source = described(tmp_path / "source.pdparams", exif_orientation=True)
    report = convert(source, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert config["label_names"] == list(NAMES)
    assert config["pretrained_cfg"] == {
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
        "crop_pct": 0.8,
        "interpolation": "bilinear",
        "input_size": [3, 12, 12],
        "crop_mode": "center",
        "num_classes": 5,
    }  # a key that timm does not have stops it
    assert "note: timm does not turn images by their EXIF orientation" in str(report)
    without_metadata(tmp_path / "timm")
    info = open_checkpoint(tmp_path / "timm").info
    assert (info.class_names, info.preprocessing.crop_pct) == (NAMES, 0.8)


def test_huggingface_folders_state_names_and_crop_where_transformers_looks(tmp_path):
    source = described(tmp_path / "source.pdparams")
    convert(source, tmp_path / "hub", publisher="huggingface")
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert config["id2label"] == {str(i): name for i, name in enumerate(NAMES)}
    assert config["label2id"] == {name: i for i, name in enumerate(NAMES)}
    processor = json.loads((tmp_path / "hub/preprocessor_config.json").read_text())
    expected = {
        "image_processor_type": "CLIPImageProcessor",  # BeitImageProcessor of release 4 cannot keep the aspect ratio
        "size": {"shortest_edge": 15},
        "do_center_crop": True,
        "crop_size": {"height": 12, "width": 12},
        "resample": 2,
        "image_mean": [0.4] * 3,
    }
    assert {key: processor[key] for key in expected} == expected
    without_metadata(tmp_path / "hub")
    assert open_checkpoint(tmp_path / "hub").info.class_names == NAMES
    squashed = described(tmp_path / "squashed.pdparams", crop_mode="squash", crop_pct=1.0)
    convert(squashed, tmp_path / "squashed", publisher="huggingface")
    processor = json.loads((tmp_path / "squashed/preprocessor_config.json").read_text())
    assert (processor["size"], processor["do_center_crop"]) == ({"height": 12, "width": 12}, False)


def test_published_lists_of_names_are_written_out_for_transformers(tmp_path):
    state = publishers.unilm_classifier(np.random.default_rng(3), classes=1000)
    write(tmp_path / "beit_base.pth", {"model": state})
    convert(tmp_path / "beit_base.pth", tmp_path / "hub", publisher="huggingface")
    labels = json.loads((tmp_path / "hub/config.json").read_text())["id2label"]
    assert (len(labels), labels["0"]) == (1000, "tench, Tinca tinca")


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
def test_pth_files_are_those_of_torch(source, tmp_path, form):
    convert(source, tmp_path / "a.pth", publisher=form)
    convert(source, tmp_path / "b.pth", publisher=form)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    contents = read(tmp_path / "a.pth")
    assert contents.container == "torch zip"
    convert(tmp_path / "a.pth", tmp_path / "back.pdparams", publisher="paddlevit")
    np.testing.assert_equal(read(tmp_path / "back.pdparams").tree, read(source).tree)


def test_dalle_for_transformers_is_a_flava_codebook(tmp_path):
    write(tmp_path / "encoder.pth", publishers.dalle(np.random.default_rng(1)))
    convert(tmp_path / "encoder.pth", tmp_path / "flava", publisher="huggingface")
    config = json.loads((tmp_path / "flava/config.json").read_text())
    assert config == {
        "architectures": ["FlavaImageCodebook"],
        "model_type": "flava_image_codebook",
        "num_groups": 4,
        "num_blocks_per_group": 2,
        "input_channels": 3,
        "hidden_size": 8,
        "vocab_size": 16,
    }
    processor = json.loads((tmp_path / "flava/preprocessor_config.json").read_text())
    assert processor["image_processor_type"] == "FlavaImageProcessor"
    found = open_checkpoint(tmp_path / "flava").info
    assert (found.kind, found.preprocessing.image_size) == ("dalle_encoder", 112)
    assert found.preprocessing.mean == (-0.125,) * 3
    write(tmp_path / "decoder.pth", publishers.dalle(np.random.default_rng(1), decoder=True))
    with pytest.raises(ValueError, match="huggingface has no format for dalle_decoder checkpoints"):
        convert(tmp_path / "decoder.pth", tmp_path / "decoder", publisher="huggingface")
    assert not (tmp_path / "decoder").exists()


def segmentation(tmp_path, **options):
    state = publishers.unilm_segmentation(np.random.default_rng(2), **options)
    write(tmp_path / "seg.pth", {"state_dict": state})
    return tmp_path / "seg.pth"


def test_segmentation_for_transformers_names_the_blocks_it_takes(tmp_path):
    report = str(convert(segmentation(tmp_path, depth=12), tmp_path / "seg", publisher="huggingface"))
    assert "takes the outputs of blocks 1, 3, 5, 9 (from 0), the head was trained on 3, 5, 7, 11" in report
    assert "model.config._out_indices = [5, 7, 9, 13]" in report


def test_blocks_of_a_segmentation_head_are_stated_not_guessed(tmp_path):
    path = segmentation(tmp_path, depth=4)
    with pytest.raises(ValueError, match="which four blocks feed its segmentation head is not stated"):
        convert(path, tmp_path / "seg", publisher="huggingface")
    path.with_suffix(".pretrained_cfg.json").write_text('{"out_indices": [0, 1, 2, 3]}')
    convert(path, tmp_path / "seg", publisher="huggingface")
    assert json.loads((tmp_path / "seg/config.json").read_text())["out_indices"] == [0, 1, 2, 3]
    for target in ("again.safetensors", "again.pdparams"):
        convert(tmp_path / "seg", tmp_path / target)
        assert open_checkpoint(tmp_path / target).info.feature_layers == {"trained": (0, 1, 2, 3)}


def test_what_a_form_has_no_place_for_is_named(tmp_path):
    masked = {**UNILM, "mask_token": np.ones((1, 1, 24), np.float32)}
    path = described(tmp_path / "source.pdparams", masked)
    for form in ("timm", "paddlevit"):
        report = convert(path, tmp_path / f"{form}.safetensors", publisher=form)
        assert f"note: {form} has no place for mask_token: left out" in str(report)
        assert "mask_token" not in read(tmp_path / f"{form}.safetensors").tree
    report = convert(path, tmp_path / "unilm.pth", publisher="unilm")
    assert "class names are in unilm.pretrained_cfg.json, which unilm does not read" in str(report)


def test_models_without_biases_of_query_and_value(tmp_path):
    bare = {name: array for name, array in UNILM.items() if not name.endswith(("q_bias", "v_bias"))}
    path = described(tmp_path / "source.pdparams", bare)
    convert(path, tmp_path / "timm", publisher="timm")
    assert json.loads((tmp_path / "timm/config.json").read_text())["model_args"]["qkv_bias"] is False
    report = convert(path, tmp_path / "hub", publisher="huggingface")
    assert "transformers always has biases of query and value: zeros are written" in str(report)
    written = load_file(tmp_path / "hub/model.safetensors")
    assert written.keys() == publishers.huggingface(UNILM).keys()
    assert not written["beit.encoder.layer.0.attention.attention.query.bias"].any()


def test_heads_of_another_size_have_no_form_elsewhere(tmp_path):
    state = dict(UNILM)
    for name, array in UNILM.items():
        if name.endswith(("qkv.weight", "q_bias", "v_bias")):
            state[name] = np.concatenate([array, array])
        elif name.endswith("attn.proj.weight"):
            state[name] = np.concatenate([array, array], axis=1)
    for form in ("timm", "huggingface"):
        with pytest.raises(ValueError, match="its heads have 16 channels"):
            convert(described(tmp_path / "source.pdparams", state), tmp_path / form, publisher=form)
        assert not (tmp_path / form).exists()


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


def test_the_folder_of_a_run_is_a_source(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(
        dump(get_config(None, ["DATA.IMAGE_SIZE", 12, "MODEL.PATCH_SIZE", 4, "DATA.CROP_PCT", 0.7]))
    )
    (run / "class_names.txt").write_text("\n".join(NAMES), encoding="utf-8")
    with pytest.raises(FileNotFoundError, match="holds none of model.pdparams, best.pdparams"):
        convert(run, tmp_path / "hub", publisher="huggingface")
    write(run / "best.pdparams", dict(open_checkpoint(described(tmp_path / "source.pdparams")).state))
    convert(run, tmp_path / "timm", publisher="timm")
    config = json.loads((tmp_path / "timm/config.json").read_text())
    assert (config["label_names"], config["pretrained_cfg"]["crop_pct"]) == (list(NAMES), 0.7)


def test_weights_that_are_not_finite_are_converted_with_a_warning(tmp_path, capsys):
    tree = publishers.paddlevit(UNILM)
    tree["blocks.1.gamma_1"] = tree["blocks.1.gamma_1"].copy()
    tree["blocks.1.gamma_1"][3] = np.inf
    write(tmp_path / "source.pdparams", tree)
    main([str(tmp_path / "source.pdparams"), str(tmp_path / "target.safetensors")])
    assert "warning: NaN or Inf in blocks.1.gamma_1" in capsys.readouterr().out
    assert np.isinf(load_file(tmp_path / "target.safetensors")["blocks.1.gamma_1"][3])
