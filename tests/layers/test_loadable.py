"""`set_state_dict` of every network: half precision is cast, wrappers are opened, other types are refused by Paddle."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.beit import build_beit
from beit.models.dalle import DalleDecoder, DalleEncoder, DalleTokenizer
from beit.models.mim import build_mim
from beit.models.tokenizer import build_vqkd
from beit.models.upernet import build_upernet
from tests.tiny import PRETRAIN, TOKENIZER, tiny_config, upernet_config

NETWORKS = {
    "classifier": lambda: build_beit(tiny_config()),
    "masked model": lambda: build_mim(tiny_config(**PRETRAIN)),
    "VQ-KD": lambda: build_vqkd(tiny_config(**TOKENIZER)),
    "UPerNet": lambda: build_upernet(upernet_config()),
    "DALL-E": lambda: DalleTokenizer(
        DalleEncoder(width=4, num_codes=6), DalleDecoder(width=4, code_width=4, num_codes=6)
    ),
}


def float_state(network):
    """Random numbers for its floating-point tensors, and the others as they are."""
    paddle.seed(5)
    return {
        name: paddle.randn(tensor.shape) if tensor.dtype == paddle.float32 else tensor
        for name, tensor in network.state_dict().items()
    }


@pytest.mark.parametrize("as_arrays", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "float32"])
@pytest.mark.parametrize("name", NETWORKS)
def test_files_of_another_precision_are_cast(tmp_path, name, dtype, as_arrays):
    network = NETWORKS[name]()
    expected = float_state(network)
    half = {
        key: tensor.astype(dtype) if tensor.dtype == paddle.float32 else tensor
        for key, tensor in expected.items()
    }
    paddle.save(half, str(tmp_path / "w.pdparams"))
    assert network.set_state_dict(paddle.load(str(tmp_path / "w.pdparams"), return_numpy=as_arrays))[0] == []
    for key, tensor in network.state_dict().items():
        assert tensor.dtype == expected[key].dtype
        if tensor.dtype == paddle.float32:
            np.testing.assert_array_equal(tensor.numpy(), half[key].astype("float32").numpy())


@pytest.mark.parametrize("name", NETWORKS)
def test_training_checkpoints_are_opened(name):
    network = NETWORKS[name]()
    state = float_state(network)
    assert network.load_dict({"state_dict": state, "epoch": 1}) == ([], [])
    for key, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), state[key].numpy())


def test_a_network_in_half_precision_loads_float32():
    network = build_beit(tiny_config())
    state = float_state(network)
    network.to(dtype="float16")
    network.set_state_dict(state)
    assert network.cls_token.dtype == paddle.float16
    expected = state["cls_token"].astype("float16")  # Paddle's own cast; before 3.2 it does not round
    np.testing.assert_array_equal(network.cls_token.numpy(), expected.numpy())


def test_names_of_parameters_are_cast_too():
    network = build_beit(tiny_config())
    named = {tensor.name: paddle.ones(tensor.shape, "float16") for tensor in network.state_dict().values()}
    assert network.set_state_dict(named, use_structured_name=False) == ([], [])
    np.testing.assert_array_equal(network.head.weight.numpy(), np.ones(network.head.weight.shape, np.float32))


def test_integers_for_floating_point_tensors_are_refused():
    network = build_beit(tiny_config())
    wrong = {name: paddle.ones(tensor.shape, "int64") for name, tensor in network.state_dict().items()}
    with pytest.raises(AssertionError, match="dtype not match"):
        network.set_state_dict(wrong)
