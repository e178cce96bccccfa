"""The work of each rank in the two-process test of the codebook; a module, so that ranks can import it."""

from __future__ import annotations

import sys

import numpy as np
import paddle

from beit.models.quantizer import NormEmaQuantizer
from beit.parallel import ranks


def train(rank, world_size):
    """Codebook tensors after each of five steps; batches are split over ranks as the sampler splits them."""
    quantizer = NormEmaQuantizer(12, 4, dead_after=2, reseed_dead_codes=True)
    quantizer.train()
    states = []
    for step in range(5):
        batch = np.random.default_rng(step).standard_normal((8, 5, 4)).astype("float32")
        quantizer(paddle.to_tensor(batch[rank::world_size]), np.random.default_rng([step, rank]))
        states.append({name: tensor.numpy() for name, tensor in quantizer.state_dict().items()})
    return states


def worker(folder):
    ranks.start("cpu")
    states = train(ranks.rank(), ranks.world_size())
    flat = {f"{step}.{name}": array for step, state in enumerate(states) for name, array in state.items()}
    np.savez(f"{folder}/{ranks.rank()}.npz", **flat)
    sys.exit(0)
