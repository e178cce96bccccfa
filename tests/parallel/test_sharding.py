"""Training with sharded optimizer states and gradients equals training without; unsupported settings are refused."""

from __future__ import annotations

import re
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
from tests.tiny import losses, options, tiny_config, write_dataset


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    arguments = (str(folder),)
    assert launch(sharding_ranks.worker, arguments, ranks=sharding_ranks.RANKS, device="cpu", grace=5.0) == 0
    return folder


@pytest.mark.slow
def test_sharded_steps_equal_plain_steps(results: Path) -> None:
    """With layer decay, weight decay, clipping over all ranks, accumulation, a frozen layer and the moving average."""
    plain = sharding_ranks.flat(sharding_ranks.train(0, range(sharding_ranks.STEPS)))
    assert plain["norms/"].min() > sharding_ranks.LIMIT, "nothing would be clipped"
    for rank in range(sharding_ranks.RANKS):
        for kind in ("whole", "resumed"):
            got = dict(np.load(results / f"{kind}{rank}.npz"))
            for name, expected in plain.items():
                if name == "moments held/" or (rank and name.startswith("optimizer/")):
                    continue
                if name == "norms/" and kind == "resumed":
                    expected = expected[sharding_ranks.STEPS // 2 :]
                np.testing.assert_allclose(
                    got[name], expected, rtol=2e-4, atol=2e-6, err_msg=f"{kind}{rank} {name}"
                )


@pytest.mark.slow
def test_a_rank_holds_only_the_moments_of_its_own_parameters(results: Path) -> None:
    held = [
        [int(np.load(results / f"{kind}{rank}.npz")["moments held/"]) for rank in range(sharding_ranks.RANKS)]
        for kind in ("whole", "resumed")
    ]
    total = len([p for p in sharding_ranks.Toy().parameters() if not p.stop_gradient])
    assert all(sum(counts) == total and min(counts) > 0 for counts in held), (held, total)


@pytest.mark.slow
def test_gradients_are_all_reduced_with_the_last_micro_batch_only(results: Path) -> None:
    """Before it each rank has its own sum, after it both have the mean."""
    first, second = (np.load(results / f"accumulated{rank}.npz")["gradients/"] for rank in range(2))
    assert len(first) == 3
    for micro in range(2):
        assert not np.allclose(first[micro], second[micro]), micro
    np.testing.assert_array_equal(first[2], second[2])
    assert not np.allclose(first[2], first[1])


UNSUPPORTED = [
    (1, "cpu", 2, r"TRAIN.SHARDING_STAGE = 1 on cpu: .* on GPUs only. Set TRAIN.SHARDING_STAGE 0; .*TRAIN.RECOMPUTE"),
    (2, "gpu", 1, r"TRAIN.SHARDING_STAGE = 2 with 1 rank: .* start several ranks \(main_multi_gpu.py\)"),
    (3, "gpu", 8, r"TRAIN.SHARDING_STAGE = 3 would shard the weights too, .* Possible are 0 \(off\), 1 and 2"),
]  # fmt: skip


def refusal(stage: int, device: str, ranks: int, **keys: Any) -> str:
    """The message of `sharding.check`, empty where it accepts the config."""
    try:
        sharding.check(get_config(None, options({"TRAIN__SHARDING_STAGE": stage, **keys})), device, ranks)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("stage", "device", "ranks", "message"), UNSUPPORTED)
def test_unsupported_stages_are_refused(stage: int, device: str, ranks: int, message: str) -> None:
    assert re.match(message, refusal(stage, device, ranks))
    assert not refusal(stage, device, ranks, EVAL=True)  # there is no optimizer
    with pytest.raises(ValueError, match=r"TRAIN.SHARDING_STAGE = 4, expected an integer of at most 3"):
        get_config(None, ["TRAIN.SHARDING_STAGE", 4])


@pytest.mark.parametrize(("stage", "device", "ranks"), [(0, "cpu", 1), (1, "gpu", 2), (2, "gpu", 32)])
def test_supported_stages_are_accepted(stage: int, device: str, ranks: int) -> None:
    assert not refusal(stage, device, ranks)


def test_float16_is_refused() -> None:
    task = sharding_ranks.Toy()
    with pytest.raises(
        ValueError, match=r"TRAIN.SHARDING_STAGE = 2 with -amp on a GPU without bfloat16: .* without -amp"
    ):
        sharding.distribute(task, task.optimizer(), 2, "float16")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def test_a_run_refuses_a_stage_on_a_cpu_before_it_writes_files(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"TRAIN.SHARDING_STAGE = 2 on cpu"):
        run(tiny_config(data, tmp_path / "out", TRAIN__SHARDING_STAGE=2))
    assert not (tmp_path / "out").exists()


class Wrapper:
    """The attributes of Paddle's optimizer wrapper, with one rank that owns all parameters."""

    def __init__(self, optimizer: Any) -> None:
        self._optim = optimizer
        self.param2rank = {p.name: 0 for group in optimizer._param_groups for p in group["params"]}
        self.step, self.clear_grad = optimizer.step, optimizer.clear_grad


@pytest.mark.parametrize(("stage", "level"), [(1, "os"), (2, "os_g")])
def test_a_run_shards_after_loading_and_before_the_moving_average(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int, level: str
) -> None:
    run(tiny_config(data, tmp_path / "before", TRAIN__NUM_EPOCHS=1))
    pretrained = {"MODEL__PRETRAINED": str(tmp_path / "before" / "model.pdparams"), "TRAIN__MODEL_EMA": True}
    run(tiny_config(data, tmp_path / "plain", **pretrained))
    loaded = read_checkpoint(tmp_path / "before" / "latest.pdparams")["model"]
    events: list[str] = []

    def shard(model: Any, optimizer: Any, level: str) -> tuple[Any, Any, None]:
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
    monkeypatch.setattr("paddle.distributed.sharding.group_sharded_parallel", shard)
    monkeypatch.setattr("beit.train.run.Ema", Average)
    run(tiny_config(data, tmp_path / "sharded", TRAIN__SHARDING_STAGE=stage, **pretrained))
    assert events == [level, "average"]
    np.testing.assert_allclose(losses(tmp_path / "sharded"), losses(tmp_path / "plain"), atol=1e-6)
    states = [
        read_checkpoint(tmp_path / name / "latest.pdparams")["optimizer"] for name in ("sharded", "plain")
    ]
    assert states[0].keys() == states[1].keys()  # a run can continue from either
