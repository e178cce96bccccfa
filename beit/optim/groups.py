"""Parameter groups with layer-wise learning rates and weight decay, and the optimizer's state by parameter name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import paddle
from paddle import Tensor

from beit.logging import format_table

Group = dict[str, Any]


def is_no_decay(name: str, param: Tensor, *, decay_position_tables: bool = True) -> bool:
    """Whether the official recipes exempt a parameter from weight decay.

    Exempt are tensors with at most one axis (norms, LayerScale, q and v biases), every `bias`, `pos_embed` and
    `cls_token`. `mask_token` decays, and so do the relative position bias tables by default.

    Source: unilm/beit/optim_factory.py `get_parameter_groups` and `Beit.no_weight_decay`; the tables are exempt there
    only with `--disable_weight_decay_on_rel_pos_bias`.

    Args:
        name: structured name, such as `blocks.3.attn.qkv.weight`.
        param: the parameter.
        decay_position_tables: False exempts the relative position bias tables, too.
    """
    leaf = name.rpartition(".")[2]
    if param.ndim <= 1 or leaf in {"bias", "pos_embed", "cls_token"}:
        return True
    return leaf == "relative_position_bias_table" and not decay_position_tables


def parameter_groups(
    named_parameters: Iterable[tuple[str, Tensor]],
    layer_id: Callable[[str], int],
    *,
    num_layers: int,
    layer_decay: float,
    weight_decay: float,
    no_decay: Callable[[str, Tensor], bool] = is_no_decay,
) -> list[Group]:
    """Groups for `paddle.optimizer.AdamW`, sorted by layer: one with and one without weight decay for each layer.

    A group has the entries `params`, `learning_rate` (in Paddle a multiplier of the optimizer's rate) and
    `weight_decay`, and for `describe_groups` and `set_step` `name` (`layer_3_decay`), `layer` and `decays`. Frozen
    parameters are left out.

    Source: unilm/beit/optim_factory.py `LayerDecayValueAssigner`: multiplier `decay ** (L + 1 - layer)`.

    Args:
        named_parameters: the items of `Layer.named_parameters()`.
        layer_id: maps a structured name to its layer: 0 for the embeddings, i + 1 for block i, L + 1 for the rest.
        num_layers: L, the number of blocks.
        layer_decay: ratio of the rates of neighboring layers, in (0, 1]; 1 switches layer decay off.
        weight_decay: value of the decaying groups, 0 or more; the other groups get 0.
        no_decay: returns True for a name and its parameter if it is exempt from weight decay.

    Raises:
        ValueError: `layer_decay` or `weight_decay` is out of range, `layer_id` returns a number outside of 0 .. L + 1,
            or no parameter is trainable.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay} is not in (0, 1]; 1 switches layer decay off")
    if weight_decay < 0:
        raise ValueError(f"weight_decay={weight_decay} is negative; 0 switches weight decay off")
    members: dict[tuple[int, bool], list[Tensor]] = {}
    for name, param in named_parameters:
        if param.stop_gradient:
            continue
        layer = layer_id(name)
        if not 0 <= layer <= num_layers + 1:
            raise ValueError(
                f"Parameter {name} got layer {layer}; expected 0 .. {num_layers + 1} for {num_layers} blocks"
            )
        members.setdefault((layer, not no_decay(name, param)), []).append(param)
    if not members:
        raise ValueError(
            "No parameter is trainable: every one of them is frozen, so there is nothing to optimize"
        )
    return [
        {
            "params": params,
            "learning_rate": layer_decay ** (num_layers + 1 - layer),
            "weight_decay": weight_decay if decays else 0.0,
            "name": f"layer_{layer}_{'decay' if decays else 'no_decay'}",
            "layer": layer,
            "decays": decays,
        }
        for (layer, decays), params in sorted(members.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def describe_groups(groups: Iterable[Group]) -> str:
    """The groups as a table with a total: layer, rate multiplier, weight decay, number of tensors and of parameters.

    Args:
        groups: the result of `parameter_groups`.
    """
    rows = [("layer", "lr multiplier", "weight decay", "tensors", "parameters")]
    tensors = parameters = 0
    for group in groups:
        size = sum(int(np.prod(param.shape)) for param in group["params"])
        tensors += len(group["params"])
        parameters += size
        multiplier, decay = f"{group['learning_rate']:.6g}", f"{group['weight_decay']:g}"
        rows.append((str(group["layer"]), multiplier, decay, str(len(group["params"])), f"{size:,}"))
    rows.append(("total", "", "", str(tensors), f"{parameters:,}"))
    return format_table(rows)


def set_step(optimizer: paddle.optimizer.AdamW, lr: float, weight_decay: float) -> None:
    """Set the learning rate, and the weight decay of every decaying group, for the next step.

    The groups keep their learning-rate multipliers. AdamW reads the `weight_decay` of a group in each step from its own
    copy of the group (`Optimizer._param_groups`), for which Paddle has no public setter.

    Args:
        optimizer: an optimizer built with the result of `parameter_groups`.
        lr: learning rate of the step, before the multipliers.
        weight_decay: weight decay of the step; groups without decay stay at 0.

    Raises:
        ValueError: the optimizer was not built with the result of `parameter_groups`.
    """
    groups: list[Any] = optimizer._param_groups
    if not all(isinstance(group, dict) and "decays" in group for group in groups):
        raise ValueError("set_step needs an optimizer built on the result of parameter_groups(...)")
    optimizer.set_lr(float(lr))
    for group in groups:
        if group["decays"]:
            group["weight_decay"] = float(weight_decay)


def named_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    names: Mapping[str, str],
    *,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """The optimizer's state (moments, powers of the betas, master weights) by structured parameter name.

    Keys have the form `blocks.0.attn.qkv.weight.moment1`. Paddle's own `state_dict` uses automatic names such as
    `linear_7.w_0_moment1_0`, whose counters depend on all layers and optimizers that the process created before, so it
    cannot be restored after a change of the program. The learning rate is not included: `set_step` sets it.

    Args:
        optimizer: the optimizer, before or after its first step.
        names: maps automatic to structured parameter names: `{p.name: n for n, p in model.named_parameters()}`.
        only: automatic names of the parameters whose state this process holds; None for all.

    Raises:
        ValueError: `names` lacks a parameter of the optimizer.
    """
    return {key: np.array(tensor.numpy()) for key, tensor in _state_tensors(optimizer, names, only).items()}


def load_named_optimizer_state(
    optimizer: paddle.optimizer.Optimizer,
    state: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    *,
    only: Collection[str] | None = None,
) -> None:
    """Load the result of `named_optimizer_state` into an optimizer, bit for bit.

    Args:
        optimizer: an optimizer with the same trainable parameters, usually a new one.
        state: what `named_optimizer_state` returned.
        names: maps automatic to structured parameter names in this process.
        only: automatic names of the parameters whose state this process holds; entries of the other parameters are
            ignored. None for all.

    Raises:
        ValueError: entries are missing, unexpected, or of another shape or type; nothing is changed.
    """
    tensors = _state_tensors(optimizer, names, only)
    others = {
        names[param.name] for param in parameters_of(optimizer) if only is not None and param.name not in only
    }
    missing = sorted(tensors.keys() - state.keys())
    extra = sorted(key for key in state.keys() - tensors.keys() if key.rpartition(".")[0] not in others)
    if missing or extra:
        raise ValueError(
            f"The optimizer state does not fit the trainable parameters: {len(missing)} entries are "
            f"missing ({_first(missing)}), {len(extra)} are left over ({_first(extra)}); resume with "
            "the model and the frozen layers of the interrupted run"
        )
    arrays = {key: np.ascontiguousarray(state[key]).reshape(np.shape(state[key])) for key in tensors}
    for key, tensor in tensors.items():
        got, expected = arrays[key], tensor.numpy()
        if (got.shape, got.dtype) != (expected.shape, expected.dtype):
            raise ValueError(
                f"Optimizer state {key} is {got.dtype} {got.shape}; "
                f"expected {expected.dtype} {expected.shape}"
            )
    for key, tensor in tensors.items():
        # Not `set_value`, which would move the beta powers from the CPU, where AdamW keeps them, to the current device.
        tensor.copy_(paddle.to_tensor(arrays[key], place=tensor.place), True)


def _state_tensors(
    optimizer: paddle.optimizer.Optimizer, names: Mapping[str, str], only: Collection[str] | None
) -> dict[str, Tensor]:
    """The state tensors by structured name (no copies), created with their initial values if they do not exist yet.

    The first step would create them. Creating them here makes the set of entries the same before the first step, and
    for parameters that have not received a gradient yet.
    """
    params = [param for param in parameters_of(optimizer) if not param.stop_gradient]
    unnamed = [param.name for param in params if param.name not in names]
    if unnamed:
        raise ValueError(
            f"{len(unnamed)} parameters of the optimizer have no structured name ({_first(unnamed)}); "
            "pass the names of the very model the optimizer was built on"
        )
    if only is not None:
        params = [param for param in params if param.name in only]
    with paddle.no_grad():
        optimizer._create_accumulators(paddle.static.default_main_program().global_block(), params)
    tensors: dict[str, Tensor] = {}
    for param in params:
        name, owner = names[param.name], param
        if param.name in optimizer._master_weights:
            owner = optimizer._master_weights[param.name]
            tensors[f"{name}.master_weight"] = owner
        for kind, by_parameter in optimizer._accumulators.items():
            tensors[f"{name}.{kind}"] = by_parameter[owner.name]
    return tensors


def parameters_of(optimizer: paddle.optimizer.Optimizer) -> list[Tensor]:
    """The parameters of an optimizer, group by group."""
    groups: list[Any] = optimizer._param_groups
    return [param for group in groups for param in (group["params"] if isinstance(group, dict) else [group])]


def _first(keys: list[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "") if keys else "none"
