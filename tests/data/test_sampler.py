from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beit.config import get_config
from beit.data.sampler import EvalSampler, Sample, TrainSampler, build_train_sampler, evenly_spaced

SIZES = st.integers(1, 5)


def steps(length, batch_size, accum_iter, world_size, *, epoch=0, first_step=0, **options):
    """The samples as a nested list [step][rank][micro-batch][image]."""
    ranks = [
        TrainSampler(
            length, batch_size=batch_size, accum_iter=accum_iter, world_size=world_size, rank=rank, **options
        ).batches(epoch, first_step)
        for rank in range(world_size)
    ]
    return list(zip(*ranks, strict=True))


def flat(step):
    return [sample for rank in step for micro in rank for sample in micro]


@given(st.integers(1, 200), SIZES, SIZES, SIZES, st.integers(0, 3), st.integers(0, 5))
def test_an_epoch_takes_each_image_at_most_once(length, batch_size, accum_iter, world_size, epoch, seed):
    size = batch_size * accum_iter * world_size
    if length < size:
        with pytest.raises(ValueError, match="batch larger than the data"):
            TrainSampler(length, batch_size=batch_size, accum_iter=accum_iter, world_size=world_size)
        return
    epoch_steps = steps(length, batch_size, accum_iter, world_size, epoch=epoch, seed=seed)
    assert len(epoch_steps) == length // size
    for step in epoch_steps:
        assert [len(rank) for rank in step] == [accum_iter] * world_size
        assert all(len(micro) == batch_size for rank in step for micro in rank)
    samples = [sample for step in epoch_steps for sample in flat(step)]
    used = length - length % size
    assert len({sample.index for sample in samples}) == used
    assert {sample.index for sample in samples} <= set(range(length))
    assert sorted(sample.seed for sample in samples) == list(range(epoch * length, epoch * length + used))


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("split", [(2, 2, 3), (6, 2, 1), (3, 4, 1), (12, 1, 1), (1, 1, 12)])
def test_a_step_does_not_depend_on_how_it_is_split(split, repeats):
    expected = [set(flat(step)) for step in steps(50, 4, 3, 1, seed=1, epoch=2, repeats=repeats)]
    assert [set(flat(step)) for step in steps(50, *split, seed=1, epoch=2, repeats=repeats)] == expected


def test_resume_in_the_middle_of_an_epoch():
    assert steps(50, 2, 2, 3, first_step=2) == steps(50, 2, 2, 3)[2:]
    assert steps(50, 2, 2, 3, first_step=4) == []


def test_epochs_and_seeds_differ():
    orders = [
        TrainSampler(30, batch_size=1, seed=seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(30)) for order in orders)
    again = TrainSampler(30, batch_size=2, world_size=3, rank=1).order(0).tolist()
    assert again == orders[0]


def test_ranks_take_every_nth_image():
    order = TrainSampler(8, batch_size=2).order(0)
    (step, _) = steps(8, 2, 1, 2)
    assert step[1][0][1] == Sample(int(order[3]), 3)  # rank 1, its second image: position 3


@pytest.mark.parametrize(("length", "repeats"), [(30, 3), (31, 3), (29, 3), (10, 20)])
def test_repeated_augmentation(length, repeats):
    order = TrainSampler(length, batch_size=1, repeats=repeats).order(0)
    counts = Counter(order.tolist())
    assert len(order) == length
    assert len(counts) == -(-length // repeats)
    assert sorted(counts.values())[1:] == [repeats] * (len(counts) - 1)
    np.testing.assert_array_equal(
        np.flatnonzero(np.diff(order)) % repeats, repeats - 1
    )  # copies are neighbors


def test_copies_go_to_different_ranks():
    for step in steps(30, 2, 1, 3, repeats=3):
        indices = [{sample.index for micro in rank for sample in micro} for rank in step]
        assert indices[0] == indices[1] == indices[2]


def test_batch_larger_than_the_data_names_the_fix():
    match = r"24 images \(DATA.BATCH_SIZE=4 x TRAIN.ACCUM_ITER=3 x 2 ranks\).* has 20; set DATA.BATCH_SIZE to 3 or less"
    with pytest.raises(ValueError, match=match):
        TrainSampler(20, batch_size=4, accum_iter=3, world_size=2)


@given(st.integers(1, 200), SIZES, SIZES, SIZES)
def test_the_last_step_takes_the_rest_of_the_images(length, batch_size, accum_iter, world_size):
    """Every image once, fewer than one per micro-batch and rank twice; all micro-batches of a step are equal."""
    unit = accum_iter * world_size
    taken = steps(length, batch_size, accum_iter, world_size, epoch=1, drop_last=False)
    assert len(taken) == math.ceil(length / (batch_size * unit))
    for step in taken:
        assert len({len(micro) for rank in step for micro in rank}) == 1
        assert [len(rank) for rank in step] == [accum_iter] * world_size
    indices = [sample.index for step in taken for sample in flat(step)]
    assert set(indices) == set(range(length))
    assert len(indices) == math.ceil(length / unit) * unit
    sampler = TrainSampler(
        length, batch_size=batch_size, accum_iter=accum_iter, world_size=world_size, drop_last=False
    )
    counts = np.cumsum([0, *(len(flat(step)) for step in taken + taken)])
    assert [sampler.images_before(step) for step in range(len(counts))] == counts.tolist()
    assert (
        steps(length, batch_size, accum_iter, world_size, first_step=len(taken) - 1, drop_last=False)
        == steps(length, batch_size, accum_iter, world_size, drop_last=False)[-1:]
    )


def test_the_linear_probe_has_1252_steps_on_imagenet():
    """unilm/beit/run_linear_eval.py keeps the last batch: 18 images on each of 8 GPUs, one of them a second time."""
    config = get_config("beit_base_patch16_224_linear")
    sampler = build_train_sampler(config, 1_281_167, world_size=8, rank=7)
    assert sampler.steps_per_epoch == 1252
    ((micro,),) = sampler.batches(0, first_step=1251)
    assert len(micro) == 18
    assert micro[-1].index == sampler.order(0)[0]
    assert build_train_sampler(get_config(opts=["DATA.BATCH_SIZE", 1024]), 1_281_167).steps_per_epoch == 1251


def test_a_sampler_is_built_from_its_keys():
    opts = [
        "DATA.BATCH_SIZE",
        2,
        "TRAIN.ACCUM_ITER",
        3,
        "TRAIN.REPEATED_AUG",
        4,
        "SEED",
        5,
        "TRAIN.DROP_LAST",
        False,
    ]
    built = build_train_sampler(get_config(opts=opts), 50, world_size=6, rank=1)
    expected = TrainSampler(
        50, batch_size=2, accum_iter=3, world_size=6, rank=1, seed=5, repeats=4, drop_last=False
    )
    assert vars(built) == vars(expected)
    assert (built.step_size, built.epoch_size) == (36, 54)


@given(st.integers(0, 60), SIZES, SIZES)
def test_evaluation_takes_every_image_once(length, batch_size, world_size):
    samplers = [
        EvalSampler(length, batch_size=batch_size, world_size=world_size, rank=rank)
        for rank in range(world_size)
    ]
    ranks = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(batches) for batches in ranks]
    assert all(0 < len(batch) <= batch_size for batches in ranks for batch in batches)
    samples = [sample for batches in ranks for batch in batches for sample in batch]
    assert sorted(samples, key=lambda sample: sample.index) == [
        Sample(index, index) for index in range(length)
    ]


def test_evenly_spaced_indices():
    assert evenly_spaced(10, 4) == [0, 2, 5, 7]
    assert evenly_spaced(3, 8) == [0, 1, 2]
    assert evenly_spaced(0, 8) == []
