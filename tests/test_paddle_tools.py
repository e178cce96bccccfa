"""Paddle's own tools on the model: `summary`, `flops`, forward hooks, `jit.to_static`, `Model`."""

from __future__ import annotations

import importlib
import pkgutil
from types import FunctionType

import numpy as np
import paddle
import pytest

import beit.layers
import beit.models
from beit.beit import Beit, build_beit
from beit.bench.counting import count_multiply_adds, custom_ops
from beit.models.segmentation_heads import UperHead
from beit.models.upernet import build_upernet
from tests.tiny import noise_images, randomize, tiny_config, upernet_config

FROM_PADDLE = pytest.mark.filterwarnings("ignore::UserWarning:paddle.*")
"""Paddle warns of its own calls while it traces a graph and loads a `TensorDataset`."""

LOST_DEFAULTS = pytest.mark.skipif(
    paddle.__version__.startswith(("3.0.", "3.1.")),
    reason="Paddle 3.0 and 3.1 lose the defaults of keyword-only arguments where they trace a whole graph",
)


def layer_methods() -> list[FunctionType]:
    """The methods of all layers in `beit.layers`, `beit.models` and `beit.beit`, without `__init__`."""
    modules = [importlib.import_module("beit.beit")]
    for package in (beit.layers, beit.models):
        names = (module.name for module in pkgutil.iter_modules(package.__path__))
        modules += [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    layers = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, paddle.nn.Layer)
        and value.__module__ == module.__name__
    }
    methods = [value for layer in layers for name, value in vars(layer).items() if name != "__init__"]
    return [method for method in methods if isinstance(method, FunctionType)]


@pytest.fixture
def model() -> Beit:
    """A classifier without random operations: `[B, 3, 16, 16]` to 3 classes, 5 tokens, width 24, 2 blocks."""
    return randomize(build_beit(tiny_config(MODEL__DROPPATH=0.0)), scale=0.1)


def test_summary_counts_all_parameters_of_a_model_inside_of_another_layer(model, capsys):
    """Paddle leaves out what the outermost layer itself holds: without `Sequential` the class token."""
    model.eval()
    model.head.bias.stop_gradient = True
    total = sum(parameter.size for parameter in model.parameters())
    assert paddle.summary(paddle.nn.Sequential(model), (1, 3, 16, 16)) == {
        "total_params": total,
        "trainable_params": total - model.head.bias.size,
    }
    assert paddle.summary(model, (1, 3, 16, 16))["total_params"] == total - model.cls_token.size
    assert f"Total params: {total:,}\n" in capsys.readouterr().out


def test_flops_counts_the_products_inside_attention_with_custom_ops(model, capsys):
    """Beyond convention A, Paddle counts an operation for each bias of a convolution."""
    model.eval()
    counts = count_multiply_adds(model, paddle.zeros([1, 3, 16, 16]))
    biases = 4 * model.embed_dim  # of 4 patches
    assert counts.attention == 2 * 2 * 5 * 5 * model.embed_dim  # 2 blocks of 2 products, 5 tokens
    found = paddle.flops(model, [1, 3, 16, 16], custom_ops=custom_ops(model))
    assert found == counts.under("A") + biases
    assert paddle.flops(model, [1, 3, 16, 16]) == found - counts.attention


def test_forward_hooks_see_every_call(model):
    """Each layer is called once; a block's drop path twice, after attention and after the MLP."""
    model.eval()
    called: list[str] = []
    for name, layer in model.named_sublayers():
        layer.register_forward_post_hook(lambda _layer, _inputs, _output, name=name: called.append(name))
    model(paddle.to_tensor(noise_images()))
    expected = [name for name, _ in model.named_sublayers() if name != "blocks"]
    expected += [name for name in expected if name.endswith(".drop_path")]
    assert sorted(called) == sorted(expected)


@FROM_PADDLE
@pytest.mark.parametrize("full_graph", [False, pytest.param(True, marks=LOST_DEFAULTS)])
@pytest.mark.parametrize("recompute", [False, True])
def test_to_static_in_training_mode_gives_the_same_loss_and_gradients(recompute, full_graph):
    keys = {"MODEL__DROPPATH": 0.0, "TRAIN__RECOMPUTE": recompute}
    images, labels = paddle.to_tensor(noise_images()), paddle.to_tensor([0, 2])

    def step(network, layer):
        loss = paddle.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        return float(loss), {name: value.grad.numpy() for name, value in layer.named_parameters()}

    eager = randomize(build_beit(tiny_config(**keys)), scale=0.1)
    eager.train()
    loss, gradients = step(eager, eager)
    static = randomize(build_beit(tiny_config(**keys)), scale=0.1)
    static.train()
    static_loss, static_gradients = step(paddle.jit.to_static(static, full_graph=full_graph), static)
    assert static_loss == pytest.approx(loss, rel=1e-5)
    assert gradients.keys() == static_gradients.keys()
    for name, gradient in gradients.items():
        np.testing.assert_allclose(static_gradients[name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)


@FROM_PADDLE
def test_to_static_in_evaluation_mode_gives_the_same_logits(model):
    model.eval()
    images = paddle.to_tensor(noise_images())
    expected = model(images).numpy()
    np.testing.assert_allclose(paddle.jit.to_static(model)(images).numpy(), expected, rtol=1e-4, atol=1e-5)


@FROM_PADDLE
def test_to_static_of_a_whole_segmentation_model_gives_the_same_logits():
    network = randomize(build_upernet(upernet_config()), scale=0.1)
    network.eval()
    images = paddle.to_tensor(noise_images())
    expected = network(images).numpy()
    found = paddle.jit.to_static(network, full_graph=True)(images).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@FROM_PADDLE
def test_to_static_of_a_segmentation_head_gives_the_same_logits():
    head = randomize(UperHead(4, channels=6, num_classes=3), scale=0.1)
    head.eval()
    pyramid = [paddle.randn([2, 4, side, side]) for side in (16, 8, 4, 2)]
    expected = head(pyramid).numpy()
    np.testing.assert_allclose(paddle.jit.to_static(head)(pyramid).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_methods_of_layers_have_no_defaults_that_tracing_loses():
    """Paddle 3.0 and 3.1 lose those of keyword-only arguments; exports state the argument of `Beit.forward`."""
    methods = layer_methods()
    assert Beit.forward in methods
    assert [method.__qualname__ for method in methods if method.__kwdefaults__] == ["Beit.forward"]


@FROM_PADDLE
def test_paddle_model_trains_and_evaluates(model):
    """`fit` gives the losses of a loop by hand, `evaluate` the accuracy of the logits."""
    images, labels = noise_images(batch=8), np.arange(8).reshape(8, 1) % 3
    dataset = paddle.io.TensorDataset([paddle.to_tensor(images), paddle.to_tensor(labels)])
    twin = randomize(build_beit(tiny_config(MODEL__DROPPATH=0.0)), scale=0.1)

    wrapped = paddle.Model(model)
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters())
    wrapped.prepare(optimizer, paddle.nn.CrossEntropyLoss(), paddle.metric.Accuracy())
    wrapped.fit(dataset, batch_size=4, epochs=2, shuffle=False, verbose=0)
    result = wrapped.evaluate(dataset, batch_size=4, verbose=0)

    by_hand = paddle.optimizer.AdamW(1e-3, parameters=twin.parameters())
    twin.train()
    for start in (0, 4, 0, 4):
        batch = slice(start, start + 4)
        logits = twin(paddle.to_tensor(images[batch]))
        paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(labels[batch])).backward()
        by_hand.step()
        by_hand.clear_grad()
    twin.eval()
    logits = twin(paddle.to_tensor(images))
    assert result["acc"] == pytest.approx(float((logits.numpy().argmax(-1) == labels[:, 0]).mean()))
    loss = paddle.nn.functional.cross_entropy(logits, paddle.to_tensor(labels))
    assert np.mean(result["loss"]) == pytest.approx(float(loss), abs=0.05)
    np.testing.assert_array_equal(model.head.weight.numpy(), twin.head.weight.numpy())
