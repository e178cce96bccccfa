"""Parameter groups: multipliers, exemptions from weight decay, and their effect in AdamW."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from beit.optim.groups import describe_groups, is_no_decay, parameter_groups, set_step

# Names and shapes of a BEiT of two blocks, D = 4.
SHAPES = {
    "cls_token": [1, 1, 4],
    "mask_token": [1, 1, 4],
    "pos_embed": [1, 5, 4],
    "patch_embed.proj.weight": [4, 3, 2, 2],
    "patch_embed.proj.bias": [4],
    "blocks.0.gamma_1": [4],
    "blocks.0.attn.q_bias": [4],
    "blocks.0.attn.qkv.weight": [4, 12],
    "blocks.0.attn.relative_position_bias_table": [12, 2],
    "blocks.1.mlp.fc1.weight": [4, 16],
    "blocks.1.mlp.fc1.bias": [16],
    "fc_norm.weight": [4],
    "head.weight": [4, 3],
    "head.bias": [3],
}


def layer_of(name):
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return 0 if name.startswith(("cls_token", "mask_token", "pos_embed", "patch_embed")) else 3


def make_params():
    paddle.seed(3)
    return {name: paddle.create_parameter(shape, "float32") for name, shape in SHAPES.items()}


def make_groups(params, **changes):
    options = {"num_layers": 2, "layer_decay": 0.5, "weight_decay": 0.05, **changes}
    return parameter_groups(params.items(), layer_of, **options)


def test_exempt_parameters_are_the_official_ones():
    params = make_params()
    exempt = {name for name, param in params.items() if is_no_decay(name, param)}
    assert set(params) - exempt == {
        "mask_token",
        "patch_embed.proj.weight",
        "blocks.0.attn.qkv.weight",
        "blocks.0.attn.relative_position_bias_table",
        "blocks.1.mlp.fc1.weight",
        "head.weight",
    }
    table = "blocks.0.attn.relative_position_bias_table"
    assert is_no_decay(table, params[table], decay_position_tables=False)
    assert not is_no_decay("head.weight", params["head.weight"], decay_position_tables=False)
    assert is_no_decay("conv.bias", paddle.zeros([1, 4, 1, 1]))
    assert not is_no_decay("pos_embed.proj.weight", paddle.zeros([2, 2])), "only leaf names count"


def test_groups_are_sorted_and_have_multipliers():
    params = make_params()
    groups = make_groups(params)
    names = {id(param): name for name, param in params.items()}
    found = [
        (
            g["name"],
            g["layer"],
            g["decays"],
            g["learning_rate"],
            g["weight_decay"],
            {names[id(p)] for p in g["params"]},
        )
        for g in groups
    ]
    assert found == [
        ("layer_0_decay", 0, True, 0.125, 0.05, {"mask_token", "patch_embed.proj.weight"}),
        ("layer_0_no_decay", 0, False, 0.125, 0.0, {"cls_token", "pos_embed", "patch_embed.proj.bias"}),
        (
            "layer_1_decay",
            1,
            True,
            0.25,
            0.05,
            {"blocks.0.attn.qkv.weight", "blocks.0.attn.relative_position_bias_table"},
        ),
        ("layer_1_no_decay", 1, False, 0.25, 0.0, {"blocks.0.gamma_1", "blocks.0.attn.q_bias"}),
        ("layer_2_decay", 2, True, 0.5, 0.05, {"blocks.1.mlp.fc1.weight"}),
        ("layer_2_no_decay", 2, False, 0.5, 0.0, {"blocks.1.mlp.fc1.bias"}),
        ("layer_3_decay", 3, True, 1.0, 0.05, {"head.weight"}),
        ("layer_3_no_decay", 3, False, 1.0, 0.0, {"fc_norm.weight", "head.bias"}),
    ]


def test_published_multipliers_of_base_and_large():
    """Base and large recipes: the patch embedding has the multiplier decay^13 or decay^25, the head 1."""
    weight = paddle.create_parameter([2, 2], "float32")
    for layers, decay in ((12, 0.65), (24, 0.75)):
        for layer, power in ((0, layers + 1), (layers, 1), (layers + 1, 0)):
            (group,) = parameter_groups(
                [("w", weight)], lambda _, layer=layer: layer,
                num_layers=layers, layer_decay=decay, weight_decay=0.05,
            )  # fmt: skip
            assert group["learning_rate"] == decay**power


def test_frozen_parameters_are_left_out():
    params = make_params()
    for name in ("patch_embed.proj.weight", "mask_token"):
        params[name].stop_gradient = True
    assert [g["name"] for g in make_groups(params)][:2] == ["layer_0_no_decay", "layer_1_decay"]


def test_own_no_decay_rule():
    groups = make_groups(make_params(), no_decay=lambda name, param: name == "head.weight")
    assert [len(g["params"]) for g in groups if not g["decays"]] == [1]


def test_table_of_groups():
    lines = describe_groups(make_groups(make_params())).splitlines()
    assert len({len(line) for line in lines}) == 1, "columns are aligned"
    assert lines[0].split("  ")[0] == "layer"
    assert lines[1].split() == ["0", "0.125", "0.05", "2", "52"]
    assert lines[-1].split() == ["total", "14", f"{sum(int(np.prod(s)) for s in SHAPES.values()):,}"]


def adamw_reference(param, grad, moments, t, lr, decay):
    """One step of AdamW (Loshchilov and Hutter 2019, algorithm 2) in float64, betas 0.9 and 0.999."""
    first, second = moments
    first, second = 0.9 * first + 0.1 * grad, 0.999 * second + 0.001 * grad**2
    update = (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return param - lr * decay * param - lr * update, (first, second)


def test_multiplier_and_decay_of_each_step_have_an_effect():
    params = make_params()
    groups = make_groups(params)
    optimizer = paddle.optimizer.AdamW(learning_rate=1.0, parameters=groups, weight_decay=0.7)
    rng = np.random.default_rng(0)
    multiplier = {id(p): g["learning_rate"] for g in groups for p in g["params"]}
    decays = {id(p): g["decays"] for g in groups for p in g["params"]}
    expected = {name: param.numpy().astype("float64") for name, param in params.items()}
    moments = dict.fromkeys(params, (0.0, 0.0))
    for t, (lr, weight_decay) in enumerate([(0.02, 0.5), (0.01, 4.0), (0.03, 0.0)], start=1):
        set_step(optimizer, lr, weight_decay)
        grads = {name: rng.standard_normal(shape).astype("float32") for name, shape in SHAPES.items()}
        sum((params[name] * paddle.to_tensor(grads[name])).sum() for name in params).backward()
        optimizer.step()
        optimizer.clear_grad()
        for name, param in params.items():
            expected[name], moments[name] = adamw_reference(
                expected[name], grads[name].astype("float64"), moments[name], t,
                lr * multiplier[id(param)], weight_decay if decays[id(param)] else 0.0,
            )  # fmt: skip
            np.testing.assert_allclose(
                param.numpy(), expected[name], rtol=0, atol=2e-6, err_msg=f"{name} {t}"
            )


def test_set_step_refuses_other_groups():
    params = list(make_params().values())
    with pytest.raises(ValueError, match="parameter_groups"):
        set_step(paddle.optimizer.AdamW(parameters=params), 0.1, 0.1)
    with pytest.raises(ValueError, match="parameter_groups"):
        set_step(paddle.optimizer.AdamW(parameters=[{"params": params}]), 0.1, 0.1)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"layer_decay": 0.0}, r"layer_decay=0.0 is not in \(0, 1\]"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 is negative"),
        ({"num_layers": 1}, r"got layer 3; expected 0 .. 2 for 1 blocks"),
    ],
)
def test_invalid_arguments_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        make_groups(make_params(), **changes)


def test_nothing_trainable_is_refused():
    with pytest.raises(ValueError, match="No parameter is trainable"):
        make_groups({})
