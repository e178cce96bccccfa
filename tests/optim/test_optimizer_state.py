"""Optimizer state by structured names: resuming is exact, also if automatic names have changed."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.optim.groups import (
    load_named_optimizer_state,
    named_optimizer_state,
    parameter_groups,
    set_step,
)


def build(layers_before=0):
    for _ in range(layers_before):  # shifts Paddle's counters of automatic names
        paddle.nn.Linear(2, 2)
    paddle.seed(5)
    model = paddle.nn.Sequential(paddle.nn.Linear(4, 6), paddle.nn.LayerNorm(6), paddle.nn.Linear(6, 2))
    groups = parameter_groups(
        model.named_parameters(), lambda name: int(name[0]), num_layers=1, layer_decay=0.5, weight_decay=0.1
    )
    optimizer = paddle.optimizer.AdamW(learning_rate=1.0, parameters=groups)
    return model, optimizer, {param.name: name for name, param in model.named_parameters()}


def train(model, optimizer, steps):
    for step in steps:
        set_step(optimizer, 0.1 / (step + 1), 0.1 * step)
        batch = np.random.default_rng(step).standard_normal((8, 4)).astype("float32")
        model(paddle.to_tensor(batch)).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()


def bytes_of(model, optimizer, names):
    weights = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    return weights, {key: array.tobytes() for key, array in named_optimizer_state(optimizer, names).items()}


@pytest.mark.parametrize("steps_after_load", [0, 3])
def test_resuming_is_exact(steps_after_load):
    unbroken = build()
    train(*unbroken[:2], range(3 + steps_after_load))

    model, optimizer, names = build()
    train(model, optimizer, range(3))
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    state = named_optimizer_state(optimizer, names)

    resumed = build(layers_before=7)
    assert set(resumed[2]).isdisjoint(names), "the names must differ for this to prove anything"
    resumed[0].set_state_dict(weights)
    load_named_optimizer_state(resumed[1], state, resumed[2])
    train(*resumed[:2], range(3, 3 + steps_after_load))
    assert bytes_of(*resumed) == bytes_of(*unbroken)


def test_keys_and_initial_values():
    _, optimizer, names = build()
    state = named_optimizer_state(optimizer, names)
    kinds = ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")
    assert set(state) == {f"{name}.{kind}" for name in names.values() for kind in kinds}
    assert not state["0.weight.moment1"].any()
    np.testing.assert_allclose(state["0.weight.beta2_pow_acc"], [0.999], rtol=1e-6)


def test_state_is_a_copy():
    model, optimizer, names = build()
    train(model, optimizer, range(1))
    state = named_optimizer_state(optimizer, names)
    before = state["2.weight.moment1"].copy()
    train(model, optimizer, range(1, 2))
    np.testing.assert_array_equal(state["2.weight.moment1"], before)


def test_frozen_and_unused_parameters():
    """A frozen parameter has no state; a parameter without a gradient so far has initial values."""
    model, optimizer, names = build()
    model[0].weight.stop_gradient = True
    model[2](paddle.ones([1, 6])).sum().backward()
    optimizer.step()
    state = named_optimizer_state(optimizer, names)
    assert "0.weight.moment1" not in state
    assert not state["1.weight.moment1"].any()
    assert state["2.weight.moment1"].any()


def test_master_weights_are_part_of_the_state():
    def build_bf16():
        layer = paddle.nn.Linear(3, 2)
        layer.to(dtype="bfloat16")
        optimizer = paddle.optimizer.AdamW(parameters=layer.parameters(), multi_precision=True)
        return optimizer, {param.name: name for name, param in layer.named_parameters()}

    optimizer, names = build_bf16()
    state = named_optimizer_state(optimizer, names)
    assert state["weight.master_weight"].dtype == np.float32
    state = {key: array + 1 for key, array in state.items()}
    other, other_names = build_bf16()
    load_named_optimizer_state(other, state, other_names)
    loaded = named_optimizer_state(other, other_names)
    assert {key: array.tobytes() for key, array in loaded.items()} == {
        key: array.tobytes() for key, array in state.items()
    }


def test_states_that_do_not_fit_change_nothing():
    model, optimizer, names = build()
    train(model, optimizer, range(1))
    before = bytes_of(model, optimizer, names)
    good = {key: array + 1 for key, array in named_optimizer_state(optimizer, names).items()}
    first = next(iter(good))
    bad = [
        ({key: array for key, array in good.items() if key != first}, f"1 entries are missing .{first}"),
        ({**good, "head.weight.moment1": good[first]}, r"1 are left over .head\.weight\.moment1"),
        ({**good, "2.bias.moment2": np.zeros([9], "float32")}, r"2\.bias\.moment2 is float32 \(9,\)"),
        ({**good, "2.bias.moment2": np.zeros([2], "float64")}, r"is float64 \(2,\); expected float32 \(2,\)"),
    ]
    for state, match in bad:
        with pytest.raises(ValueError, match=match):
            load_named_optimizer_state(optimizer, state, names)
    with pytest.raises(ValueError, match="6 parameters of the optimizer have no structured name"):
        named_optimizer_state(optimizer, {})
    assert bytes_of(model, optimizer, names) == before
