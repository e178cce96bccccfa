"""What each rank of the two-process test of BatchNorm does; a module of its own, so that ranks can import it."""

from __future__ import annotations

import sys

import numpy as np
import paddle

from beit.layers.batch_norm import SyncBatchNorm
from beit.parallel import ranks

BATCH, CHANNELS = 6, 3


def train(rank, world_size):
    """Output, input gradient, parameter gradients (averaged over ranks, as DataParallel does) and statistics."""
    rng = np.random.default_rng(0)
    # Not around zero, where mean of squares and variance would be the same.
    joint = (10 + rng.standard_normal((BATCH, CHANNELS, 4, 5))).astype("float32")
    weights = rng.standard_normal(joint.shape).astype("float32")
    norm = SyncBatchNorm(CHANNELS)
    norm.weight.set_value(np.array([1.0, -2.0, 0.5], "float32"))
    images = paddle.to_tensor(joint[rank::world_size], stop_gradient=False)
    outputs = norm(images)
    (outputs * paddle.to_tensor(weights[rank::world_size])).sum().backward()
    gradients = [norm.weight.grad, norm.bias.grad]
    if world_size > 1:
        for gradient in gradients:
            paddle.distributed.all_reduce(gradient)
    names = ("weight_grad", "bias_grad")
    return {
        "output": outputs.numpy(),
        "input_grad": images.grad.numpy(),
        **{name: gradient.numpy() for name, gradient in zip(names, gradients, strict=True)},
        "mean": norm._mean.numpy(),
        "variance": norm._variance.numpy(),
    }


def worker(folder):
    ranks.start("cpu")
    np.savez(f"{folder}/{ranks.rank()}.npz", **train(ranks.rank(), ranks.world_size()))
    sys.exit(0)
