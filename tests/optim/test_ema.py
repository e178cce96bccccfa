"""The moving average of the weights: values, saving, and exchange with the model's weights."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.optim.ema import Ema


class Net(paddle.nn.Layer):
    """Parameters, float and integer buffers, a buffer that is replaced, and a weight shared under two names."""

    def __init__(self):
        super().__init__()
        self.first = paddle.nn.Linear(3, 3)
        self.norm = paddle.nn.BatchNorm1D(3)
        self.tied = paddle.nn.Linear(3, 3, bias_attr=False)
        self.tied.weight = self.first.weight
        self.register_buffer("codes", paddle.ones([2]))
        self.register_buffer("index", paddle.arange(4))

    def forward(self, x):
        return self.tied(self.norm(self.first(x)))


def change(model, seed):
    """Change the values as a training step does: in place, except for one buffer that is replaced."""
    rng = np.random.default_rng(seed)
    for tensor in [*model.parameters(), model.norm._mean]:
        tensor.set_value(rng.standard_normal(tensor.shape).astype("float32"))
    model.codes = paddle.to_tensor(rng.standard_normal(2).astype("float32"))


def values(state):
    return {name: np.array(tensor.numpy()) for name, tensor in state.items()}


def bits(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_average_follows_the_formula():
    model = Net()
    ema = Ema(model, 0.9)
    expected = {name: array.astype("float64") for name, array in values(ema.state_dict()).items()}
    for seed in range(5):
        change(model, seed)
        ema.update()
        live = values(model.state_dict())
        expected = {name: 0.9 * old + 0.1 * live[name] for name, old in expected.items()}
    found = values(ema.state_dict())
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_floating_point_tensors_are_averaged():
    model = Net()
    names = set(Ema(model, 0.9).state_dict())
    assert {"first.weight", "norm._mean", "norm._variance", "codes"} <= names
    assert names.isdisjoint({"index", "tied.weight"}), "integers are not averaged, tied weights once"


def test_the_average_of_constant_weights_is_exact():
    model = Net()
    ema = Ema(model, 0.9999)
    before = values(ema.state_dict())
    for _ in range(3):
        ema.update()
    for name, array in values(ema.state_dict()).items():
        np.testing.assert_array_equal(array, before[name])


def test_update_does_not_change_the_model():
    model = Net()
    change(model, 1)
    ema = Ema(model, 0.5)
    before = bits(model), [param.stop_gradient for param in model.parameters()]
    ema.update()
    assert (bits(model), [param.stop_gradient for param in model.parameters()]) == before
    assert all(tensor.stop_gradient for tensor in ema.state_dict().values())


def test_swapped_exchanges_the_weights_and_restores_them_exactly():
    model = Net()
    ema = Ema(model, 0.5)
    change(model, 1)
    ema.update()
    trained, average = bits(model), values(ema.state_dict())
    tensors = {name: id(tensor) for name, tensor in model.state_dict().items()}
    with ema.swapped():
        inside = values(model.state_dict())
        for name, array in average.items():
            np.testing.assert_array_equal(inside[name], array)
        np.testing.assert_array_equal(inside["tied.weight"], inside["first.weight"])
    assert bits(model) == trained
    assert {name: id(tensor) for name, tensor in model.state_dict().items()} == tensors
    for name, array in values(ema.state_dict()).items():
        np.testing.assert_array_equal(array, average[name])
    model.eval()
    model(paddle.ones([2, 3])).sum().backward()
    assert model.first.weight.grad is not None, "training goes on"


def test_swapped_restores_after_an_exception():
    model = Net()
    ema = Ema(model, 0.5)
    change(model, 1)
    before = bits(model)
    with pytest.raises(KeyError, match="from inside"), ema.swapped():
        assert bits(model) != before
        raise KeyError("from inside")
    assert bits(model) == before
    ema.update()


def test_save_and_load(tmp_path):
    ema = Ema(Net(), 0.5)
    change(ema.model, 1)
    ema.update()
    saved = values(ema.state_dict())
    other = Ema(Net(), 0.5)
    other.load_state_dict(saved)
    for name, array in values(other.state_dict()).items():
        np.testing.assert_array_equal(array, saved[name])
    change(ema.model, 2)
    change(other.model, 2)
    ema.update()
    other.update()
    for name, array in values(other.state_dict()).items():
        np.testing.assert_array_equal(array, values(ema.state_dict())[name])


def test_states_that_do_not_fit_are_refused():
    ema = Ema(Net(), 0.5)
    before = values(ema.state_dict())
    good = {name: array + 1 for name, array in before.items()}
    rest = {name: array for name, array in good.items() if name != "codes"}
    for state, match in (
        (rest, r"missing \['codes'\]"),
        ({**good, "head.weight": good["codes"]}, r"left over \['head.weight'\]"),
        ({**good, "codes": np.zeros(3, "float32")}, r"codes is \[3\]; expected \[2\]"),
    ):
        with pytest.raises(ValueError, match=match):
            ema.load_state_dict(state)
    for name, array in values(ema.state_dict()).items():
        np.testing.assert_array_equal(array, before[name])


def test_calls_inside_swapped_are_refused():
    ema = Ema(Net(), 0.5)
    with ema.swapped():
        for call in (
            ema.update,
            ema.state_dict,
            lambda: ema.load_state_dict({}),
            lambda: ema.swapped().__enter__(),
        ):
            with pytest.raises(RuntimeError, match=r"inside Ema\.swapped"):
                call()
    ema.update()


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_range(decay):
    with pytest.raises(ValueError, match=r"is not in \[0, 1\)"):
        Ema(Net(), decay)


def test_low_precision_weights_are_refused():
    model = paddle.nn.Linear(2, 2)
    model.to(dtype="bfloat16")
    with pytest.raises(ValueError, match="EMA needs float32 weights; weight is"):
        Ema(model, 0.9)
