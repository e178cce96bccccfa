"""Single edits of a state, then the adaptation to models of another shape or kind."""

from __future__ import annotations

import numpy as np
import pytest

from beit.checkpoint import adapt, qkv
from beit.checkpoint.canonical import shapes_of
from beit.positions import resize_absolute_position, resize_relative_position_bias
from tests.checkpoint import publishers

RNG = np.random.default_rng(0)


def canonical(unilm):
    return publishers.paddle_layout(unilm)


CLASSIFIER = canonical(publishers.unilm_classifier(RNG))
MIM_V1 = canonical(publishers.unilm_mim(RNG))
MIM_V2 = canonical(publishers.unilm_mim(RNG, version=2))
SEGMENTATION = canonical(publishers.unilm_segmentation(RNG))


def test_each_block_gets_a_copy_of_the_shared_table():
    state = adapt.expand_shared_bias(MIM_V1, 2)
    assert adapt.SHARED_TABLE not in state
    for i in range(2):
        np.testing.assert_array_equal(state[f"blocks.{i}.attn.{adapt.TABLE}"], MIM_V1[adapt.SHARED_TABLE])
    state[f"blocks.0.attn.{adapt.TABLE}"][:] = 7.0  # copies: training one block leaves the other
    assert not np.any(state[f"blocks.1.attn.{adapt.TABLE}"] == 7.0)
    assert adapt.SHARED_TABLE in MIM_V1


def test_dropped_tensors_are_listed_with_the_reason():
    changes = adapt.Changes()
    state = changes.drop(CLASSIFIER, ("head.",), "why")
    assert changes.dropped == {"head.weight": "why", "head.bias": "why"}
    assert CLASSIFIER.keys() - state.keys() == changes.dropped.keys()


def test_norm_of_pretraining_does_not_become_fc_norm():
    state, changes = adapt.adapt(MIM_V2, target())
    assert not [
        name for name in state if name.startswith(("norm.", "fc_norm.", "lm_head.", "mask_token", "cls_pt_"))
    ]
    assert changes.dropped["norm.weight"] == "norm of pre-training; it does not become fc_norm"
    assert changes.dropped.keys() == MIM_V2.keys() - state.keys() - {adapt.SHARED_TABLE}
    assert "norm.weight" in adapt.adapt(MIM_V1, target(pooling="token"))[0]


def test_splitting_and_fusing_qkv_are_inverse():
    split = qkv.split_qkv(CLASSIFIER)
    whole = CLASSIFIER["blocks.1.attn.qkv.weight"]  # [D, 3D]: columns are q, then k, then v
    np.testing.assert_array_equal(split["blocks.1.attn.k.weight"], whole[:, 24:48])
    back = qkv.fuse_qkv(split)
    assert back.keys() == CLASSIFIER.keys()
    np.testing.assert_array_equal(back["blocks.1.attn.qkv.weight"], whole)
    del split["blocks.1.attn.k.weight"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attn lacks its query, key or value weight"):
        qkv.fuse_qkv(split)


def test_the_key_third_of_a_fused_bias_is_dropped():
    bias = np.arange(12.0)
    state, nonzero = qkv.split_qkv_bias({"blocks.0.attn.qkv.bias": bias})
    np.testing.assert_array_equal(state["blocks.0.attn.q_bias"], bias[:4])
    np.testing.assert_array_equal(state["blocks.0.attn.v_bias"], bias[8:])
    assert nonzero == ["blocks.0.attn.qkv.bias"]
    assert qkv.split_qkv_bias({"a.attn.qkv.bias": np.zeros(3)})[1] == []


def target(**sizes):
    return shapes_of(canonical(publishers.unilm_classifier(RNG, **sizes)))


def test_tables_are_resized_to_another_image_size():
    state, changes = adapt.adapt(CLASSIFIER, target(side=5))
    name = f"blocks.1.attn.{adapt.TABLE}"
    np.testing.assert_array_equal(
        state[name], resize_relative_position_bias(CLASSIFIER[name], (3, 3), (5, 5))
    )
    assert changes.resized[name] == "[28, 3] to [84, 3]"
    assert (changes.dropped, changes.new) == ({}, {})


def test_tables_are_resized_to_a_rectangular_grid():
    shapes = dict(target())
    for i in range(2):
        shapes[f"blocks.{i}.attn.{adapt.TABLE}"] = (5 * 11 + 3, 3)
    state, _ = adapt.adapt(CLASSIFIER, shapes, grid=(3, 6), interpolation="linear")
    name = f"blocks.0.attn.{adapt.TABLE}"
    expected = resize_relative_position_bias(CLASSIFIER[name], (3, 3), (3, 6), "linear")
    np.testing.assert_array_equal(state[name], expected)


def test_absolute_positions_and_patch_embedding_are_resized():
    source = canonical(publishers.unilm_classifier(RNG, tables=False, positions=True))
    shapes = target(tables=False, positions=True, side=4, patch=8)
    state, changes = adapt.adapt(source, shapes)
    np.testing.assert_array_equal(
        state["pos_embed"], resize_absolute_position(source["pos_embed"], (3, 3), (4, 4))
    )
    assert state["patch_embed.proj.weight"].shape == (24, 3, 8, 8)
    assert sorted(changes.resized) == ["patch_embed.proj.weight", "pos_embed"]


def test_head_of_another_class_count_is_new():
    state, changes = adapt.adapt(CLASSIFIER, target(classes=9))
    assert "head.weight" not in state
    assert changes.dropped == dict.fromkeys(
        ("head.weight", "head.bias"), "5 classes in the file, 9 in the model"
    )
    assert changes.new == changes.dropped


@pytest.mark.parametrize("source", [MIM_V1, MIM_V2])
@pytest.mark.parametrize(("pooling", "new"), [("mean", {"fc_norm", "head"}), ("token", {"head"})])
def test_a_pretrained_encoder_becomes_a_classifier(source, pooling, new):
    shapes = target(pooling=pooling, side=4)
    state, changes = adapt.adapt(source, shapes)
    assert {name.split(".")[0] for name in changes.new} == new
    assert state.keys() | changes.new.keys() == shapes.keys()
    assert all(state[name].shape == shapes[name] for name in state)
    if pooling == "token":  # as official --use_cls does: the names are equal, so the norm is taken
        np.testing.assert_array_equal(state["norm.weight"], source["norm.weight"])


def test_an_encoder_without_final_norm_takes_the_tokens_only():
    shapes = {name: shape for name, shape in target().items() if not name.startswith(("head.", "fc_norm."))}
    for source in (CLASSIFIER, MIM_V1):
        state, changes = adapt.adapt(source, shapes)
        assert state.keys() == shapes.keys() and not changes.new
    assert changes.dropped["norm.weight"] == "norm of pre-training; it does not become fc_norm"


def test_an_encoder_with_a_mask_token_takes_that_of_pretraining():
    shapes = target() | {"mask_token": (1, 1, 24)}
    state, changes = adapt.adapt(MIM_V1, shapes)
    np.testing.assert_array_equal(state["mask_token"], MIM_V1["mask_token"])
    assert state.keys() | changes.new.keys() == shapes.keys()


def test_a_classifier_becomes_a_segmentation_model_and_back():
    shapes = shapes_of(SEGMENTATION)
    shallow = {
        name: array
        for name, array in SEGMENTATION.items()
        if not name.startswith(("backbone.blocks.2", "backbone.blocks.3"))
    }
    state, changes = adapt.adapt(CLASSIFIER, shapes_of(shallow))
    assert state.keys() | changes.new.keys() == shallow.keys()
    assert "backbone.fpn1.1._mean" in changes.new
    np.testing.assert_array_equal(state["backbone.cls_token"], CLASSIFIER["cls_token"])
    assert {"head.weight", "fc_norm.bias"} <= changes.dropped.keys()

    state, changes = adapt.adapt(SEGMENTATION, target(depth=4))
    assert {name.split(".")[0] for name in changes.new} == {"fc_norm", "head"}
    assert state.keys() | changes.new.keys() == target(depth=4).keys()
    state, changes = adapt.adapt(
        SEGMENTATION,
        {**shapes, "decode_head.conv_seg.weight": (9, 24, 1, 1), "decode_head.conv_seg.bias": (9,)},
    )
    assert sorted(changes.new) == ["decode_head.conv_seg.bias", "decode_head.conv_seg.weight"]


def test_patch_aggregation_is_dropped_for_a_v1_model():
    state, changes = adapt.adapt(MIM_V2, shapes_of(MIM_V1))
    assert state.keys() == MIM_V1.keys()
    assert set(changes.dropped.values()) == {"patch aggregation of BEiT v2, which the model does not have"}


def test_models_and_files_without_a_head():
    shapes = {name: shape for name, shape in target().items() if not name.startswith("head.")}
    state, changes = adapt.adapt(CLASSIFIER, shapes)
    assert state.keys() == shapes.keys()
    assert changes.dropped == dict.fromkeys(
        ("head.weight", "head.bias"), "the model has no classification head"
    )
    encoder = {name: array for name, array in CLASSIFIER.items() if not name.startswith("head.")}
    _, changes = adapt.adapt(encoder, target())
    assert sorted(changes.new) == ["head.bias", "head.weight"]


def test_another_kind_of_network_is_refused():
    with pytest.raises(ValueError, match="holds a DALL-E encoder, the model is a BEiT classifier"):
        adapt.adapt(publishers.dalle(RNG), target())


def test_a_tokenizer_loses_its_decoder_if_the_model_only_encodes():
    vqkd = canonical(publishers.unilm_vqkd(RNG))
    state, changes = adapt.adapt(vqkd, shapes_of(vqkd))
    assert state.keys() == vqkd.keys()
    assert (changes.resized, changes.dropped) == ({}, {})
    encoder = {k: v for k, v in vqkd.items() if not k.startswith(("decoder.", "decode_task_layer."))}
    state, changes = adapt.adapt(vqkd, {**shapes_of(encoder), "encoder.pos_embed": (1, 17, 24)})
    assert state.keys() == encoder.keys()
    assert changes.dropped == dict.fromkeys(vqkd.keys() - encoder.keys(), "the model encodes only")
    expected = resize_absolute_position(vqkd["encoder.pos_embed"], (3, 3), (4, 4))
    np.testing.assert_array_equal(state["encoder.pos_embed"], expected)
