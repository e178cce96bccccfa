"""Hidden states and attention weights of chosen blocks against NumPy; attention maps and rollout."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.models.mim import BeitForMaskedImageModeling
from beit.predict.attention_maps import attention_map, overlay, rollout
from beit.predict.classifier import classifier
from beit.preprocessing import Preprocessing
from tests.reference_numpy import layer_norm, patch_tokens, position_bias, softmax, torch_layout, transform
from tests.tiny import randomize, tiny_beit

IMAGES = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
PREPROCESSING = Preprocessing(mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0)


def build(**options):
    return randomize(tiny_beit(width=12, depth=3, heads=2, side=2, classes=4, **options), scale=0.3)


def reference(model, images):
    """Embeddings, then for each block its attention weights `[B, H, N, N]` and its tokens."""
    s = torch_layout({name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()})
    x = patch_tokens(images.astype(np.float64), s["patch_embed.proj.weight"], s["patch_embed.proj.bias"])
    x = np.concatenate([np.broadcast_to(s["cls_token"], (len(x), 1, 12)), x], axis=1)
    shared = s.get("rel_pos_bias.relative_position_bias_table")
    states, weights = [x], []
    for i in range(3):
        prefix = f"blocks.{i}."
        bias = position_bias(s.get(prefix + "attn.relative_position_bias_table", shared), 2, 2)
        normed = layer_norm(x, s[prefix + "norm1.weight"], s[prefix + "norm1.bias"])
        q, k, _ = np.split(normed @ s[prefix + "attn.qkv.weight"].T, 3, axis=-1)
        q = q + s[prefix + "attn.q_bias"]
        q, k = (t.reshape(len(x), 5, 2, 6).transpose(0, 2, 1, 3) for t in (q, k))
        weights.append(softmax(q @ k.transpose(0, 1, 3, 2) * 6**-0.5 + bias))
        x = transform(x, s, prefix, 2, bias)
        states.append(x)
    return states, weights


@pytest.mark.parametrize("options", [{}, {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}])
def test_hidden_states_and_attention_weights_equal_the_reference(options):
    """The weights include the relative position biases, per block or shared."""
    model = build(**options)
    states, weights = reference(model, IMAGES)
    out = model.forward_outputs(paddle.to_tensor(IMAGES), hidden_states=[2, 0], attentions=[1, 2, 0])
    for got, layer in zip(out.hidden_states, (2, 0), strict=True):
        np.testing.assert_allclose(got.numpy(), states[layer + 1], rtol=1e-3, atol=1e-4)
    for got, layer in zip(out.attentions, (1, 2, 0), strict=True):
        assert got.shape == [2, 2, 5, 5]
        np.testing.assert_allclose(got.numpy(), weights[layer], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(got.numpy().sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(out.last_hidden_state.numpy(), out.hidden_states[0].numpy())
    np.testing.assert_allclose(
        out.pooler_output.numpy(),
        model.forward_features(paddle.to_tensor(IMAGES)).numpy(),
        rtol=1e-5,
        atol=1e-6,
    )


def test_class_token_pooling_returns_the_normalized_class_token():
    model = build(pooling="token")
    out = model.forward_outputs(paddle.to_tensor(IMAGES))
    np.testing.assert_array_equal(out.pooler_output.numpy(), out.last_hidden_state.numpy()[:, 0])
    assert out.hidden_states == out.attentions == ()


def test_other_sizes_and_unknown_blocks():
    model = build()
    larger = paddle.to_tensor(np.zeros((1, 3, 12, 8), np.float32))
    assert model.forward_outputs(larger, attentions=[0], any_size=True).attentions[0].shape == [
        1,
        2,
        7,
        7,
    ]
    with pytest.raises(ValueError, match=r"blocks \[3\] do not exist; the model has blocks 0 to 2"):
        model.forward_outputs(paddle.to_tensor(IMAGES), attentions=[3])


def test_attention_weights_of_recomputed_blocks_and_pretraining_models():
    model = build(recompute_blocks=True)
    model.train()
    assert model.forward_outputs(paddle.to_tensor(IMAGES), attentions=[0]).attentions[0].shape == [
        2,
        2,
        5,
        5,
    ]
    mim = BeitForMaskedImageModeling(
        image_size=(8, 8), patch_size=4, embed_dim=12, depth=3, num_heads=2, vocab_size=5, early_layers=2,
        use_rel_pos_bias=False, use_shared_rel_pos_bias=True,
    )  # fmt: skip
    assert len(mim.forward_outputs(paddle.to_tensor(IMAGES), attentions=range(3)).attentions) == 3


def test_attention_maps_and_rollout():
    rng = np.random.default_rng(0)
    weights = rng.random((3, 2, 5, 5))
    weights /= weights.sum(-1, keepdims=True)
    by_class = attention_map(weights[0], (2, 2), from_patches=False)
    np.testing.assert_array_equal(by_class[1], weights[0, 1, 0, 1:].reshape(2, 2))
    by_patches = attention_map(weights[0], (2, 2), from_patches=True)
    np.testing.assert_allclose(by_patches[1, 0, 1], weights[0, 1, 1:, 2].mean())
    joint = np.eye(5)
    for (
        block
    ) in weights:  # Abnar and Zuidema: with the residual, rows normalized again, latest block on the left
        augmented = block.mean(0) + np.eye(5)
        joint = (augmented / augmented.sum(-1, keepdims=True)) @ joint
    np.testing.assert_allclose(rollout(weights, (2, 2), from_patches=False), joint[0, 1:].reshape(2, 2))


def test_attention_maps_of_one_image():
    predictor = classifier(build(), preprocessing=PREPROCESSING)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8))
    attentions = predictor.attentions(image)
    assert [weights.shape for weights in attentions] == [(2, 5, 5)] * 3
    assert [predictor.attention_map(weights).shape for weights in attentions] == [(2, 2, 2)] * 3
    assert predictor.attention_rollout(attentions).shape == (2, 2)


@pytest.mark.parametrize(("pooling", "block"), [("mean", None), ("mean", 0), ("token", None), ("token", 0)])
def test_grad_cam_equals_gradients_by_differences(pooling, block):
    """The formula of pytorch-grad-cam, with the derivative of a NumPy forward pass for each number of each token."""
    model = build(pooling=pooling)
    predictor = classifier(model, preprocessing=PREPROCESSING)
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8))
    first = {"mean": 2, "token": 1}[pooling] if block is None else block
    s = torch_layout({name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()})
    tokens = reference(model, predictor.tensor([image]).numpy())[0][first + 1]  # [1, N, D]

    def logit(x):
        for i in range(first + 1, 3):
            bias = position_bias(s[f"blocks.{i}.attn.relative_position_bias_table"], 2, 2)
            x = transform(x, s, f"blocks.{i}.", 2, bias)
        if pooling == "mean":
            pooled = layer_norm(x[:, 1:].mean(1), s["fc_norm.weight"], s["fc_norm.bias"])
        else:
            pooled = layer_norm(x, s["norm.weight"], s["norm.bias"])[:, 0]
        return (pooled @ s["head.weight"] + s["head.bias"])[:, 2]

    steps = 1e-5 * np.eye(tokens.size).reshape(-1, *tokens.shape[1:])
    gradients = ((logit(tokens + steps) - logit(tokens - steps)) / 2e-5).reshape(tokens.shape)
    activations, gradients = (  # [1, D, h, w], as for a convolutional network
        array[:, 1:].transpose(0, 2, 1).reshape(1, -1, 2, 2) for array in (tokens, gradients)
    )
    weights = gradients.mean(axis=(2, 3))
    expected = np.maximum((weights[..., None, None] * activations).sum(axis=1), 0)[0]
    found = predictor.grad_cam(image, 2, block)
    assert found.max() > 1e-2
    assert all(parameter.grad is None and not parameter.stop_gradient for parameter in model.parameters())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_grad_cam_says_what_does_not_exist():
    predictor = classifier(build(pooling="token"), preprocessing=PREPROCESSING)
    with pytest.raises(ValueError, match="block 2 has no Grad-CAM; the model has one for blocks 0 to 1"):
        predictor.grad_cam(Image.new("RGB", (8, 8)), 0, 2)
    with pytest.raises(ValueError, match="class 4 does not exist; the model has 4 classes"):
        predictor.grad_cam(Image.new("RGB", (8, 8)), 4)


def test_the_number_of_a_class():
    names = ("heron", "crane", "crane", "house cat, tabby")
    predictor = classifier(build(), preprocessing=PREPROCESSING, class_names=names)
    assert [predictor.label(name) for name in (1, "3", "heron", "tabby", "house cat, tabby")] == [
        1,
        3,
        0,
        3,
        3,
    ]
    for name, words in (
        ("crane", r"is the name of classes \[1, 2\]"), ("dog", "does not exist"), (4, "does not exist"), ("4", "classes 0 to 3"), (-1, "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"class {name} .*{words}"):
            predictor.label(name)


def test_overlay_is_bright_where_the_map_is_large():
    values = np.array([[0.0, 0.0], [0.0, 1.0]])
    drawn = np.asarray(overlay(Image.new("RGB", (40, 40), "black"), values, opacity=1.0), int)
    assert drawn[38, 38].sum() > 600 and drawn[1, 1].sum() < 20
    flat = np.asarray(overlay(Image.new("RGB", (8, 8), "white"), np.ones((2, 2)), opacity=0.0))
    assert (flat == 255).all()
