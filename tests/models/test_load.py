"""Weights that a model takes over from a checkpoint, without a copy."""

from __future__ import annotations

import numpy as np
import paddle

from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.layers.init import has_values
from beit.models.load import load_pretrained
from tests.tiny import randomize, tiny_beit


def arrays():
    return {name: tensor.numpy().copy() for name, tensor in randomize(tiny_beit()).state_dict().items()}


def test_a_copy_is_made_unless_the_memory_is_handed_over():
    expected = arrays()
    for copy in (True, False):
        state, model = arrays(), tiny_beit()
        load_pretrained(model, state, copy=copy)
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), expected[name], err_msg=name)
            state[name] += 1
            np.testing.assert_array_equal(tensor.numpy(), expected[name] + (not copy), err_msg=name)


def test_arrays_that_cannot_be_handed_over_are_copied():
    """Two tensors with one buffer, a part of a larger buffer, a read-only array, another type, another order."""
    expected, model = arrays(), tiny_beit()
    given = arrays()
    given["blocks.0.gamma_2"] = given["blocks.0.gamma_1"]
    expected["blocks.0.gamma_2"] = expected["blocks.0.gamma_1"].copy()
    given["norm.weight" if "norm.weight" in given else "fc_norm.weight"].flags.writeable = False
    given["head.bias"] = np.stack([expected["head.bias"]] * 2)[0]
    given["head.weight"] = np.asfortranarray(expected["head.weight"])
    given["blocks.0.mlp.fc1.weight"] = expected["blocks.0.mlp.fc1.weight"].astype(np.float16)
    load_pretrained(model, open_checkpoint(given), copy=False)
    state = model.state_dict()
    state["blocks.0.gamma_1"].set_value(state["blocks.0.gamma_1"] + 1)
    expected["blocks.0.gamma_1"] = state["blocks.0.gamma_1"].numpy()
    with paddle.no_grad():
        for parameter in state.values():  # writing into read-only memory would end the process
            parameter.scale_(2.0)
    for name, tensor in state.items():
        np.testing.assert_allclose(tensor.numpy(), 2 * expected[name], rtol=1e-3, err_msg=name)


def test_the_arrays_of_files_are_handed_over(tmp_path):
    for suffix in (".pdparams", ".safetensors"):
        write(tmp_path / f"w{suffix}", arrays())
        checkpoint = open_checkpoint(read(tmp_path / f"w{suffix}").tree)
        model = tiny_beit()
        load_pretrained(model, checkpoint, copy=False)
        shared = [
            name for name, array in checkpoint.state.items() if is_shared(model.state_dict()[name], array)
        ]
        assert sorted(shared) == sorted(model.state_dict()), suffix


def test_paddle_only_sets_tensors_that_have_memory(monkeypatch):
    """Paddle 3.0 leaves those out that have none, as in `LazyGuard`."""
    paddles = paddle.nn.Layer.set_state_dict

    def of_paddle_3_0(layer, *arguments):
        assert [name for name, tensor in layer.state_dict().items() if not has_values(tensor)] == []
        return paddles(layer, *arguments)

    monkeypatch.setattr(paddle.nn.Layer, "set_state_dict", of_paddle_3_0)
    expected = arrays()
    given = arrays() | {"head.weight": expected["head.weight"].astype(np.float16)}
    for copy in (True, False):
        with paddle.LazyGuard():
            model = tiny_beit()
        load_pretrained(model, given, copy=copy)
        for name, tensor in model.state_dict().items():
            np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=1e-3, err_msg=name)
            assert tensor.dtype == paddle.float32


def is_shared(tensor, array):
    before = tensor.numpy()
    array += 1
    return bool((tensor.numpy() == before + 1).all())
