"""Work of each rank in the tests of beit/parallel/sharding.py; a module without tests, so that ranks can import it.

Paddle shards on GPUs only. In its code of stages 1 and 2 only assertions and copies to the device depend on a GPU; without
them the same code runs here over gloo.
"""

from __future__ import annotations

import sys
from functools import partialmethod
from unittest import mock

import numpy as np
import paddle
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_optimizer_stage2 import (
    GroupShardedOptimizerStage2,
)
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_stage2 import GroupShardedStage2
from paddle.distributed.fleet.meta_parallel.sharding.group_sharded_storage import ParamStorage

from beit.config import get_config
from beit.optim.ema import Ema
from beit.optim.groups import parameter_groups
from beit.parallel import ranks, sharding
from beit.tasks.task import Task
from beit.train import loop
from tests.tiny import options, train_state

RANKS, STEPS, MICRO, LIMIT = 2, 4, 2, 0.05


def group_sharded_parallel(model, optimizer, level):
    """`paddle.distributed.sharding.group_sharded_parallel` without its assertion about the device."""
    assert level in ("os", "os_g")
    add = ParamStorage.add_rank_params
    with (
        mock.patch("paddle.framework.core.is_compiled_with_cuda", lambda: True),
        mock.patch("paddle.get_device", lambda: "cpu:0"),
        mock.patch.object(ParamStorage, "add_rank_params", partialmethod(add, convert_gpu=False)),
    ):
        optimizer = GroupShardedOptimizerStage2(optimizer._parameter_list, optimizer, device="cpu")
        return GroupShardedStage2(model, optimizer, device="cpu"), optimizer, None


class Toy(Task):
    """A task with learning rates and weight decays per layer, and a frozen layer."""

    def __init__(self, **keys) -> None:
        super().__init__()
        self.config = get_config(None, options(keys))
        paddle.seed(5)
        self.model = paddle.nn.Sequential(
            paddle.nn.Linear(4, 6), paddle.nn.LayerNorm(6), paddle.nn.Linear(6, 3), paddle.nn.Linear(3, 3)
        )
        for parameter in self.model[3].parameters():
            parameter.stop_gradient = True

    def forward(self, batch, rng=None):
        return {"loss": self.model(batch["x"]).square().mean()}

    def names(self):
        return {parameter.name: name for name, parameter in self.model.named_parameters()}

    def optimizer(self):
        groups = parameter_groups(
            self.model.named_parameters(),
            lambda name: int(name[0]),
            num_layers=2,
            layer_decay=0.5,
            weight_decay=0.1,
        )
        return paddle.optimizer.AdamW(learning_rate=1.0, parameters=groups)


def train(stage, steps, saved=None):
    """Weights, moving average, optimizer state and gradient norms after the steps, from `saved` on."""
    task = Toy(TRAIN__ACCUM_ITER=MICRO, TRAIN__GRAD_CLIP=LIMIT)
    with mock.patch("paddle.distributed.sharding.group_sharded_parallel", group_sharded_parallel):
        parallel, optimizer = sharding.distribute(task, task.optimizer(), stage, None)
    ema = Ema(task.model, 0.5)
    if saved is not None:
        for name, value in task.model.state_dict().items():
            value.set_value(saved["weights"][name])
        ema.load_state_dict(saved["ema"])
        sharding.load_optimizer_state(optimizer, saved["optimizer"], task.names())
    state = train_state(task, optimizer, parallel=parallel, ema=ema)
    norms = []
    for step in steps:
        data = np.random.default_rng(step).standard_normal((MICRO, 8, 4)).astype("float32")
        own = data[:, ranks.rank() :: ranks.world_size()]
        batches = iter([{"x": paddle.to_tensor(part)} for part in own])
        norms.append(float(loop.train_step(state, batches, 0.1 / (step + 1), 0.1 * (step + 1))[1]))
        with ema.swapped():  # as an evaluation does
            task({"x": paddle.to_tensor(data[0])})
    return {
        "weights": {name: value.numpy() for name, value in task.model.state_dict().items()},
        "ema": {name: value.numpy() for name, value in ema.state_dict().items()},
        "optimizer": sharding.optimizer_state(optimizer, task.names()),
        "norms": np.array(norms),
        "moments held": np.array(len(sharding.unwrap_optimizer(optimizer)._accumulators["moment1"])),
    }


def accumulate():
    """Gradients of one weight on this rank after each micro-batch of a step."""
    task = Toy(TRAIN__ACCUM_ITER=3)
    parallel, optimizer = sharding.distribute(task, task.optimizer(), 0, None)
    weight, seen = task.model[0].weight, []
    state = train_state(task, optimizer, parallel=parallel)
    data = np.random.default_rng(ranks.rank()).standard_normal((3, 8, 4)).astype("float32")

    def micro_batches():
        for number, part in enumerate(data):
            if number:  # the loop takes a micro-batch after the backward pass of the previous one
                seen.append(weight.grad.numpy())
            yield {"x": paddle.to_tensor(part)}

    clip = loop._clip
    with mock.patch.object(loop, "_clip", lambda *given: (seen.append(weight.grad.numpy()), clip(*given))[1]):
        loop.train_step(state, micro_batches(), 0.1, 0.1)
    assert not parallel.find_unused_parameters, "the search delays the all-reduce of every bucket"
    return {"gradients": np.stack(seen)}


def flat(results):
    return {
        f"{kind}/{name}": array
        for kind, value in results.items()
        for name, array in (value if isinstance(value, dict) else {"": value}).items()
    }


def worker(folder):
    ranks.start("cpu")
    whole = train(2, range(STEPS))
    half = ranks.broadcast_object(train(2, range(STEPS // 2)), 0)
    resumed = train(2, range(STEPS // 2, STEPS), half)
    for name, results in {"whole": whole, "resumed": resumed, "accumulated": accumulate()}.items():
        np.savez(f"{folder}/{name}{ranks.rank()}.npz", **flat(results))
    sys.exit(0)
