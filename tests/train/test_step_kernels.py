"""Kernels that a training step launches for each block, as Paddle's profiler counts them; a GPU pays for each launch."""

from __future__ import annotations

import inspect
from collections import Counter

import numpy as np
import paddle
from paddle import profiler

from beit.beit import build_beit
from beit.config import get_config
from beit.tasks import TASKS
from tests.tiny import ROOT, tiny_config

FORWARD = {
    "layer_norm": 2,
    "matmul": 6,  # qkv, logits, mixing, projection, and two of the MLP
    "add": 7,  # biases of qkv, projection and MLP (4), position bias, two residuals
    "multiply": 4,  # two LayerScales, two drop paths
    "scale": 4,  # of q, its gradient, which is the same kernel, and the two drop paths, see `kernels`
    "transpose": 3,
    "unbind": 1,
    "reshape": 2,
    "flatten": 2,
    "concat": 1,  # of the biases of q, k and v
    "embedding": 1,  # rows of the position table
    "expand_as": 1,  # of the position bias
    "softmax": 1,
    "gelu": 1,
    # drop path: a random mask for each of the two branches
    "uniform": 2,
    "greater_equal": 2,
    "cast": 2,
}
"""Kernels of the forward pass of a block without fused attention, which replaces the last six of attention."""

PARAMETERS = 16  # of a block


def kernels(depth: int) -> Counter[str]:
    """Kernels of one step of fine-tuning: forward, backward, AdamW."""
    config = tiny_config(MODEL__DEPTH=depth, MODEL__DROPPATH=0.1)
    task = TASKS[config.TASK](config)
    task.train()
    optimizer = task.optimizer(task.param_groups())
    batch = {
        "image": paddle.zeros([2, 3, 16, 16], "uint8"),
        "label": paddle.zeros([2], "int64"),
        "erase": paddle.zeros([2, 1, 4], "int32"),
    }

    def step() -> None:
        task(batch, np.random.default_rng(0))["loss"].backward()
        optimizer.step()
        optimizer.clear_grad(False)

    step()  # creates the moments
    watcher = profiler.Profiler(targets=[profiler.ProfilerTarget.CPU], on_trace_ready=lambda _: None)
    watcher.start()
    step()
    watcher.stop()
    found: Counter[str] = Counter()
    nodes = list(watcher.profiler_result.get_data().values())
    while nodes:
        node = nodes.pop()
        nodes += node.children_node
        name, _, event = node.name.rpartition(" ")
        if event == "infer_meta":  # once per kernel
            found["scale" if name == "div_scale" else name] += 1  # newer versions of Paddle count it apart
    return found


def test_kernels_of_a_block() -> None:
    two, four = kernels(2), kernels(4)
    block = {name: (four[name] - two[name]) / 2 for name in four}
    assert block.pop("adamw_") == PARAMETERS  # Paddle launches one for each parameter
    forward = {name: count for name, count in block.items() if not name.endswith("_grad") and count}
    backward = {name: count for name, count in block.items() if name.endswith("_grad") and count}
    assert {name: forward.get(name) for name in FORWARD} == FORWARD
    # Kernels that make constants: shapes of the masks, and the absent bias of k.
    assert set(forward) - set(FORWARD) <= {"full", "stack", "assign_value_", "slice", "shape64"}
    # One backward kernel for each forward kernel that has a gradient: nothing runs again, and nothing is copied.
    assert sum(backward.values()) <= sum(
        count for name, count in FORWARD.items() if f"{name}_grad" in backward
    )


def test_data_types_of_the_kernels_in_mixed_precision() -> None:
    """Products run in bfloat16, normalization and softmax in float32; the other kernels take the type of their inputs."""
    products, exact = (
        lists()["bfloat16"]["O1"] & set(FORWARD) for lists in (paddle.amp.white_list, paddle.amp.black_list)
    )
    assert products == {"matmul"}
    assert exact == {"layer_norm", "softmax"}


def test_buckets_of_the_gradients() -> None:
    """`DataParallel` sends base 224 in 14 messages, the first and the last small, so most are sent during the backward pass."""
    from paddle.base import core

    sizes = inspect.signature(paddle.DataParallel.__init__).parameters
    limits = [int(sizes[name].default * 2**20) for name in ("last_comm_buffer_size", "comm_buffer_size")]
    parameters = build_beit(get_config(str(ROOT / "configs/beit_base_patch16_224.yaml"))).parameters()[::-1]
    buckets = core.eager_assign_group_by_size(parameters, [False] * len(parameters), limits)
    megabytes = [sum(parameters[index].size for index in bucket) * 4 / 2**20 for bucket in buckets]
    assert len(buckets) == 14
    assert max(megabytes) < 30 and megabytes[0] < 3 and megabytes[-1] < 3
    assert sorted(index for bucket in buckets for index in bucket) == list(range(len(parameters)))
