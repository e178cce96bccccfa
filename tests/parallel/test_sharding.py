"""Divided optimizer state and gradients give what undivided ones give; what cannot work is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from beit.checkpoint.files import read_checkpoint
from beit.config import get_config
from beit.optim import ema
from beit.parallel import sharding
from beit.parallel.launch import launch
from beit.train.run import run
from tests.parallel import sharding_ranks
from tests.tiny import losses, tiny_config, write_dataset


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    arguments = (str(folder),)
    assert launch(sharding_ranks.worker, arguments, ranks=sharding_ranks.RANKS, device="cpu", grace=5.0) == 0
    return folder


def test_paddles_divided_step_is_the_undivided_one(results: Path) -> None:
    """Layer decay, weight decay, clipping over all ranks, accumulation, a frozen layer, the moving average, the state."""
    alone = sharding_ranks.flat(sharding_ranks.train(0, range(sharding_ranks.STEPS)))
    assert alone["norms/"].min() > sharding_ranks.LIMIT, "nothing would be clipped"
    for rank in range(sharding_ranks.RANKS):
        for kind in ("whole", "resumed"):
            got = dict(np.load(results / f"{kind}{rank}.npz"))
            for name, expected in alone.items():
                if name == "moments held/" or (rank and name.startswith("optimizer/")):
                    continue
                if name == "norms/" and kind == "resumed":
                    expected = expected[sharding_ranks.STEPS // 2 :]
                np.testing.assert_allclose(
                    got[name], expected, rtol=2e-4, atol=2e-6, err_msg=f"{kind}{rank} {name}"
                )


def test_each_rank_holds_the_moments_of_its_parameters_only(results: Path) -> None:
    held = [
        [int(np.load(results / f"{kind}{rank}.npz")["moments held/"]) for rank in range(sharding_ranks.RANKS)]
        for kind in ("whole", "resumed")
    ]
    total = len([p for p in sharding_ranks.Toy().parameters() if not p.stop_gradient])
    assert all(sum(counts) == total and min(counts) > 0 for counts in held), (held, total)


def test_gradients_travel_with_the_last_micro_batch_only(results: Path) -> None:
    """Before it each rank has its own sum; after it both have the mean."""
    first, second = (np.load(results / f"accumulated{rank}.npz")["gradients/"] for rank in range(2))
    assert len(first) == 3
    for micro in range(2):
        assert not np.allclose(first[micro], second[micro]), micro
    np.testing.assert_array_equal(first[2], second[2])
    assert not np.allclose(first[2], first[1])


@pytest.mark.parametrize(
    ("stage", "device", "ranks", "message"),
    [
        (1, "cpu", 2, r"TRAIN.SHARDING_STAGE = 1 on cpu: .* on GPUs only. Set TRAIN.SHARDING_STAGE 0; .*TRAIN.RECOMPUTE"),
        (2, "gpu", 1, r"TRAIN.SHARDING_STAGE = 2 with 1 rank: .* start several ranks \(main_multi_gpu.py\)"),
        (3, "gpu", 8, r"TRAIN.SHARDING_STAGE = 3 would shard the weights too, .* Possible are 0 \(off\), 1 and 2"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(stage: int, device: str, ranks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sharding.check(get_config(None, ["TRAIN.SHARDING_STAGE", stage]), device, ranks)
    with pytest.raises(ValueError, match=r"TRAIN.SHARDING_STAGE = 4, expected an integer of at most 3"):
        get_config(None, ["TRAIN.SHARDING_STAGE", 4])


@pytest.mark.parametrize(("stage", "device", "ranks"), [(0, "cpu", 1), (1, "gpu", 2), (2, "gpu", 32)])
def test_what_works_passes(stage: int, device: str, ranks: int) -> None:
    sharding.check(get_config(None, ["TRAIN.SHARDING_STAGE", stage]), device, ranks)
    sharding.check(
        get_config(None, ["TRAIN.SHARDING_STAGE", 3, "EVAL", True]), device, 1
    )  # no optimizer there


def test_float16_is_refused() -> None:
    task = sharding_ranks.Toy()
    with pytest.raises(
        ValueError, match=r"TRAIN.SHARDING_STAGE = 2 with -amp on a GPU without bfloat16: .* without -amp"
    ):
        sharding.distribute(task, task.optimizer(), 2, "float16")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def test_the_command_refuses_a_stage_on_a_cpu_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TRAIN.SHARDING_STAGE = 2 on cpu"):
        run(tiny_config(data, tmp_path / "out", TRAIN__SHARDING_STAGE=2))
    assert not (tmp_path / "out").exists()


class Wrapper:
    """What Paddle's wrapper of the optimizer has, with one rank that owns everything."""

    def __init__(self, optimizer: Any) -> None:
        self._optim = optimizer
        self.param2rank = {p.name: 0 for group in optimizer._param_groups for p in group["params"]}
        self.step, self.clear_grad = optimizer.step, optimizer.clear_grad


@pytest.mark.parametrize(("stage", "level"), [(1, "os"), (2, "os_g")])
def test_a_run_divides_after_loading_and_before_averaging(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, level: str
) -> None:
    run(tiny_config(data, tmp_path / "before", TRAIN__NUM_EPOCHS=1))
    pretrained = {"MODEL__PRETRAINED": str(tmp_path / "before" / "model.pdparams"), "TRAIN__MODEL_EMA": True}
    run(tiny_config(data, tmp_path / "plain", **pretrained))
    loaded = read_checkpoint(tmp_path / "before" / "latest.pdparams")["model"]
    events: list[str] = []

    def divide(model: Any, optimizer: Any, level: str) -> tuple[Any, Any, None]:
        name, weight = next(iter(model.model.named_parameters()))
        assert weight.numpy().tobytes() == loaded[name].tobytes()
        assert isinstance(optimizer, paddle.optimizer.AdamW)
        assert isinstance(optimizer._param_groups[0], dict)
        events.append(level)
        return model, Wrapper(optimizer), None

    class Average(ema.Ema):
        def __init__(self, *arguments: Any) -> None:
            events.append("average")
            super().__init__(*arguments)

    monkeypatch.setattr(sharding, "check", lambda *_: None)
    monkeypatch.setattr("paddle.distributed.sharding.group_sharded_parallel", divide)
    monkeypatch.setattr("beit.train.run.Ema", Average)
    run(tiny_config(data, tmp_path / "divided", TRAIN__SHARDING_STAGE=stage, **pretrained))
    assert events == [level, "average"]
    np.testing.assert_allclose(losses(tmp_path / "divided"), losses(tmp_path / "plain"), atol=1e-6)
    states = [
        read_checkpoint(tmp_path / name / "latest.pdparams")["optimizer"] for name in ("divided", "plain")
    ]
    assert states[0].keys() == states[1].keys()  # every command can go on from either
