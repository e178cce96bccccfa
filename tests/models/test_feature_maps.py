"""Feature maps and timm's methods of a classifier, against what timm returns for the same weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import beit
from beit.models.load import load_pretrained
from tests.models.timm_outputs import BLOCKS, STORED, UNILM, images
from tests.tiny import noise_images, randomize, tiny_beit


@pytest.fixture
def model():
    model = tiny_beit()
    load_pretrained(model, UNILM)
    return model


def test_feature_maps_are_those_of_timm(model):
    backbone = beit.FeatureMaps(model, BLOCKS)
    maps = backbone(paddle.to_tensor(images()))
    np.testing.assert_allclose(np.stack([x.numpy() for x in maps]), np.load(STORED)["maps"], atol=2e-5)
    assert backbone.feat_channels == [x.shape[1] for x in maps] == [24, 24]
    assert backbone.strides == [12 // maps[0].shape[2]] * 2


def test_feature_maps_of_another_size_and_their_gradients(model):
    backbone = beit.FeatureMaps(model, [1])
    pixels = paddle.to_tensor(noise_images(size=(16, 24)))
    (found,) = backbone(pixels)
    tokens = model.forward_outputs(pixels, hidden_states=[1], any_size=True).hidden_states[0].numpy()
    assert found.shape == [2, 24, 4, 6]
    np.testing.assert_array_equal(found.numpy()[:, :, 2, 5], tokens[:, 1 + 2 * 6 + 5])
    found.sum().backward()
    assert model.blocks[0].attn.relative_position_bias_table.grad is not None


@pytest.mark.parametrize("blocks", [[], [2], [-1]])
def test_blocks_that_do_not_exist_are_refused(model, blocks):
    with pytest.raises(ValueError, match="expected one or more of 0 to 1"):
        beit.FeatureMaps(model, blocks)


@pytest.mark.parametrize("size", [(12, 12), (24, 16)])
def test_any_size_gives_the_logits_of_a_model_of_that_size(model, size):
    large = beit.Beit(image_size=size, patch_size=4, num_classes=5, embed_dim=24, depth=2, num_heads=3)
    load_pretrained(large, {name: value.numpy() for name, value in model.state_dict().items()})
    large.eval()
    pixels = paddle.to_tensor(noise_images(size=size))
    np.testing.assert_allclose(
        model(pixels, any_size=True).numpy(), large(pixels).numpy(), atol=1e-5, rtol=1e-5
    )
    np.testing.assert_allclose(
        model.forward_features(pixels, any_size=True).numpy(),
        large.forward_features(pixels).numpy(),
        atol=1e-5,
    )
    with pytest.raises(ValueError, match="cannot be cut into patches of 4"):
        model(paddle.to_tensor(noise_images(size=(13, 12))), any_size=True)


def test_timm_heads(model):
    expected = np.load(STORED)
    features = model.forward_features(paddle.to_tensor(images()))
    pooled = model.forward_head(features, pre_logits=True)
    np.testing.assert_allclose(pooled.numpy(), expected["pre_logits"], atol=1e-5)
    np.testing.assert_allclose(model.forward_head(features).numpy(), expected["logits"], atol=1e-5)
    assert model.get_classifier() is model.head and model.num_features == 24
    with pytest.raises(ValueError, match=r"takes pooled features \[B, 24\], got \[2, 10, 24\]"):
        model.forward_head(model.embed(paddle.to_tensor(images())))


def test_a_new_classifier_has_the_initial_weights_of_a_new_model(model):
    model.class_names = ("a",) * 5
    encoder = {name: value.numpy() for name, value in model.state_dict().items() if "head" not in name}
    model.reset_classifier(7)
    assert model(paddle.to_tensor(images())).shape == [2, 7]
    assert (model.num_classes, model.class_names) == (7, None)
    assert 0 < np.abs(model.head.weight.numpy()).max() < 5 * 0.02 * 0.001
    assert all((model.state_dict()[name].numpy() == value).all() for name, value in encoder.items())
    model.reset_classifier(0)
    assert model(paddle.to_tensor(images())).shape == [2, 24]


def test_checkpointing_and_weight_decay_names():
    model = randomize(tiny_beit(use_abs_pos_emb=True))
    assert model.no_weight_decay() == {"cls_token", "pos_embed"}
    assert tiny_beit().no_weight_decay() == {"cls_token"}
    model.train()
    pixels, gradients = paddle.to_tensor(images()), []
    for enable in (True, False):
        model.set_grad_checkpointing(enable)
        assert model.recompute_blocks is enable
        model(pixels).sum().backward()
        gradients.append(model.blocks[0].mlp.fc1.weight.grad.numpy())
        model.clear_gradients()
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-5)
