"""Which images each rank loads, in which order: pure functions of seed and epoch.

A sampler has no state, so a run resumes in the middle of an epoch by naming the step, and the images of a
step do not depend on how its batch is split over ranks and micro-batches.
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
    """A new random order each epoch, cut into equal steps; the images left over wait for the next epoch.

    A step takes the next batch_size * accum_iter * world_size images; each rank takes every world_size-th of
    them and cuts its share into micro-batches.

    Args:
        length: images of the data set.
        batch_size: images per rank and micro-batch.
        accum_iter: micro-batches per step.
        world_size: ranks.
        rank: this rank.
        seed: of the order.
        repeats: times each image appears in a row, with different augmentation, while an epoch keeps its
            length: it then visits length / repeats images. Source: DeiT, repeated augmentation; neighbors
            in the order go to different ranks.

    Raises:
        ValueError: there are fewer images than one step takes.
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
        """For each step from `first_step` on, the micro-batches of this rank."""
        order = self.order(epoch)
        for step in range(first_step, self.steps_per_epoch):
            begin = step * self.step_size
            positions = range(begin + self.rank, begin + self.step_size, self.world_size)
            samples = [Sample(int(order[position]), epoch * self.length + position) for position in positions]
            yield [samples[k : k + self.batch_size] for k in range(0, len(samples), self.batch_size)]


class EvalSampler:
    """Batches that hold every image exactly once over all ranks; nothing is padded, the last may be shorter.

    Rank r takes images r, r + world_size, ...: shares differ by one image at most, and the number of batches
    may differ too, so ranks meet only after their last batch.
    """

    def __init__(self, length: int, *, batch_size: int, world_size: int = 1, rank: int = 0) -> None:
        self.indices = range(rank, length, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Sample]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [Sample(index, index) for index in self.indices[begin : begin + self.batch_size]]
