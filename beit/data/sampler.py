"""The images that each rank loads and their order, as pure functions of seed and epoch.

A sampler has no state, so a run can resume at any step of an epoch, and the images of a step do not depend on how its
batch is split among ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from yacs.config import CfgNode


@dataclass(frozen=True)
class Sample:
    """An image to load: its `index` in the list, and the `seed` of its augmentation."""

    index: int
    seed: int


class TrainSampler:
    """Samples in a new random order each epoch, split into steps.

    A step takes the next batch_size * accum_iter * world_size images; each rank takes every world_size-th of
    them and splits its share into micro-batches. The images that are left at the end of an epoch are dropped, or with
    `drop_last` False make a smaller last step.

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
        drop_last: False for a smaller last step. So that all micro-batches of that step are equal, fewer than
            accum_iter * world_size images are taken a second time, from the start of the epoch's order. Source:
            torch `DistributedSampler`.

    Attributes:
        step_size: images of a full step over all ranks.
        steps_per_epoch: steps of an epoch.
        epoch_size: images of an epoch over all ranks.

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
        drop_last: bool = True,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.world_size = world_size
        self.rank = rank
        self.seed = seed
        self.repeats = repeats
        self.accum_iter = accum_iter
        self.step_size = batch_size * accum_iter * world_size
        unit = self.step_size if drop_last else accum_iter * world_size
        self.epoch_size = (length if drop_last else length + unit - 1) // unit * unit
        self.steps_per_epoch = -(-self.epoch_size // self.step_size)
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
        for begin in range(first_step * self.step_size, self.epoch_size, self.step_size):
            end = min(begin + self.step_size, self.epoch_size)
            samples = [
                Sample(int(order[position % self.length]), epoch * self.length + position)
                for position in range(begin + self.rank, end, self.world_size)
            ]
            micro = len(samples) // self.accum_iter
            yield [samples[k : k + micro] for k in range(0, len(samples), micro)]

    def images_before(self, step: int) -> int:
        """Images of the first `step` steps of a run, over all ranks."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * self.epoch_size + min(steps * self.step_size, self.epoch_size)


def build_train_sampler(config: CfgNode, length: int, *, world_size: int = 1, rank: int = 0) -> TrainSampler:
    """The sampler of a training run, as DATA.BATCH_SIZE, TRAIN.* and SEED set it.

    Args:
        config: of the run.
        length: number of training images.
        world_size: number of ranks.
        rank: of this process.

    Raises:
        ValueError: as `TrainSampler`.
    """
    train = config.TRAIN
    return TrainSampler(
        length,
        batch_size=config.DATA.BATCH_SIZE,
        accum_iter=train.ACCUM_ITER,
        world_size=world_size,
        rank=rank,
        seed=config.SEED,
        repeats=train.REPEATED_AUG,
        drop_last=train.DROP_LAST,
    )


def evenly_spaced(length: int, count: int) -> list[int]:
    """Indices of `count` images spread over a data set; all where it has fewer.

    Lists are often sorted by class, so the first images would be of one class.

    Args:
        length: number of images of the data set.
        count: largest number of indices.
    """
    count = min(count, length)
    return [index * length // count for index in range(count)]


def batches_of(indices: Sequence[int], batch_size: int) -> Iterator[list[Sample]]:
    """Batches of the images with these indices, in order; the last may be shorter. The seed of an image is its index.

    Args:
        indices: in the list of the data set.
        batch_size: images per batch.
    """
    for begin in range(0, len(indices), batch_size):
        yield [Sample(index, index) for index in indices[begin : begin + batch_size]]


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
        return batches_of(self.indices, self.batch_size)
