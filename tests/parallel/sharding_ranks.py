"""What each rank of the tests of beit/parallel/sharding.py does; a module of its own, so that ranks can import it.

Paddle divides on GPUs only. Nothing in its code for stages 1 and 2 is about GPUs but assertions and copies to the
device: without those the real code runs here over gloo.
"""

from __future__ import annotations

import sys
from functools import partialmethod
from types import SimpleNamespace
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
from beit.optim.groups import parameter_groups, set_step
from beit.parallel import ranks, sharding
from beit.tasks.task import Task
from beit.train import loop
from beit.train.state import TrainState

RANKS, STEPS, MICRO, LIMIT = 2, 4, 2, 0.05


def group_sharded_parallel(model, optimizer, level):
    """`paddle.distributed.sharding.group_sharded_parallel` without its assertion of the device."""
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
    """A task of a model, with rates and decays per layer, and a frozen part."""

    def __init__(self) -> None:
        super().__init__()
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


def train(stage, steps, state=None):
    """Weights, average, optimizer state and gradient norms after the steps; `state` is what to go on from."""
    task = Toy()
    with mock.patch("paddle.distributed.sharding.group_sharded_parallel", group_sharded_parallel):
        parallel, optimizer = sharding.distribute(task, task.optimizer(), stage, None)
    ema = Ema(task.model, 0.5)
    if state is not None:
        for name, value in task.model.state_dict().items():
            value.set_value(state["weights"][name])
        ema.load_state_dict(state["ema"])
        sharding.load_optimizer_state(optimizer, state["optimizer"], task.names())
    run = SimpleNamespace(task=task, optimizer=optimizer)
    norms = []
    for step in steps:
        set_step(sharding.unwrap_optimizer(optimizer), 0.1 / (step + 1), 0.1 * (step + 1))
        data = np.random.default_rng(step).standard_normal((MICRO, 8, 4)).astype("float32")
        for part in data:
            own = part[ranks.rank() :: ranks.world_size()]
            (parallel({"x": paddle.to_tensor(own)})["loss"] / MICRO).backward()
        norms.append(float(loop._clip(run, LIMIT)))
        optimizer.step()
        optimizer.clear_grad()
        ema.update()
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
    """The gradient of one weight after each micro-batch of one step of the loop, as this rank has it then."""
    task = Toy()
    task.config = get_config(None, ["TRAIN.ACCUM_ITER", 3])
    parallel, optimizer = sharding.distribute(task, task.optimizer(), 0, None)
    weight, seen = task.model[0].weight, []
    state = TrainState(
        config=task.config, task=task, parallel=parallel, optimizer=optimizer, ema=None, amp_dtype=None,
        scaler=paddle.amp.GradScaler(enable=False),
    )  # fmt: skip
    data = np.random.default_rng(ranks.rank()).standard_normal((3, 8, 4)).astype("float32")

    def micro_batches():
        for number, part in enumerate(data):
            if number:  # the loop asks for the next micro-batch after the backward pass of the one before
                seen.append(weight.grad.numpy())
            yield {"x": paddle.to_tensor(part)}

    clip = loop._clip
    with mock.patch.object(loop, "_clip", lambda *given: (seen.append(weight.grad.numpy()), clip(*given))[1]):
        loop.train_step(state, micro_batches(), 0.1, 0.1)
    assert not parallel.find_unused_parameters, "that search delays the sending of every bucket"
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
