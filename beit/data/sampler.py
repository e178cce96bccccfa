"""The images that each rank loads and their order, as pure functions of seed and epoch.

A sampler has no state, so a run can resume at any step of an epoch, and the images of a step do not depend on how its
batch is split among ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """An image to load: its `index` in the list, and the `seed` of its augmentation."""

    index: int
    seed: int


class TrainSampler:
    """Samples in a new random order each epoch, split into equal steps. The last incomplete step is dropped.

    A step takes the next batch_size * accum_iter * world_size images; each rank takes every world_size-th of
    them and splits its share into micro-batches.

    Args:
        length: number of images of the data set.
        batch_size: images per rank and micro-batch.
        accum_iter: micro-batches per step.
        world_size: number of ranks.
        rank: of this process.
        seed: of the order.
        repeats: how often each image appears in a row, each time with another augmentation. The length of an
            epoch stays, so it covers length / repeats different images. Neighbors in the order go to different
            ranks. Source: repeated augmentation in DeiT.

    Raises:
        ValueError: the data set has fewer images than one step takes.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        accum_iter: int = 1,
        world_size: int = 1,
        rank: int = 0,
        seed: int = 0,
        repeats: int = 1,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.world_size = world_size
        self.rank = rank
        self.seed = seed
        self.repeats = repeats
        self.step_size = batch_size * accum_iter * world_size
        self.steps_per_epoch = length // self.step_size
        if self.steps_per_epoch == 0:
            raise ValueError(
                f"one step takes {self.step_size} images (DATA.BATCH_SIZE={batch_size} x "
                f"TRAIN.ACCUM_ITER={accum_iter} x {world_size} ranks): batch larger than the data, which has "
                f"{length}; set DATA.BATCH_SIZE to {max(1, length // (accum_iter * world_size))} or less"
            )

    def order(self, epoch: int) -> np.ndarray:
        """Indices of the whole epoch over all ranks, int64 `[length]`."""
        order = np.random.default_rng([self.seed, epoch]).permutation(self.length)
        return np.repeat(order[: -(-self.length // self.repeats)], self.repeats)[: self.length]

    def batches(self, epoch: int, first_step: int = 0) -> Iterator[list[list[Sample]]]:
        """The micro-batches of this rank for each step from `first_step` on."""
        order = self.order(epoch)
        for step in range(first_step, self.steps_per_epoch):
            begin = step * self.step_size
            positions = range(begin + self.rank, begin + self.step_size, self.world_size)
            samples = [Sample(int(order[position]), epoch * self.length + position) for position in positions]
            yield [samples[k : k + self.batch_size] for k in range(0, len(samples), self.batch_size)]


class EvalSampler:
    """Batches that cover every image exactly once over all ranks. Nothing is padded; the last batch may be shorter.

    Rank r takes the images r, r + world_size, ... The shares of two ranks differ by at most one image, and their
    numbers of batches may differ too, so ranks may synchronize only after their last batch.

    Args:
        length: number of images of the data set.
        batch_size: images per rank and batch.
        world_size: number of ranks.
        rank: of this process.
    """

    def __init__(self, length: int, *, batch_size: int, world_size: int = 1, rank: int = 0) -> None:
        self.indices = range(rank, length, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [Sample(index, index) for index in self.indices[begin : begin + self.batch_size]]
