"""The number of ranks that start, and the errors that are reported in one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import paddle
import pytest

from beit.config import get_config
from beit.flags import training_parser
from beit.layers.patch_embed import PatchEmbed
from beit.train import entry
from tests.tiny import tiny_config, write_dataset


def user_error() -> int:
    raise ValueError("a wrong value")


def error_inside_paddle() -> int:
    paddle.zeros([2, 3]) @ paddle.zeros([2, 3])
    return 0


def error_of_a_layer() -> int:
    """Raised by this package, called through Paddle's `Layer.__call__`."""
    PatchEmbed((8, 8), patch_size=4, embed_dim=2)(paddle.zeros([1, 3, 8, 4]))
    return 0


def test_only_errors_of_this_package_are_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="Hint"):
        entry.exit_status(error_inside_paddle)
    assert entry.exit_status(user_error) == entry.USER_ERROR
    assert capsys.readouterr().err == "error: a wrong value\n"
    assert entry.exit_status(error_of_a_layer) == entry.USER_ERROR
    assert capsys.readouterr().err.startswith("error: the model takes images of 8x8 pixels, got 8x4")


@pytest.mark.parametrize(
    ("nprocs", "device", "expected"),
    [(None, "cpu", 1), (3, "cpu", 3), ("auto", "cpu", len(os.sched_getaffinity(0))), (None, "gpu", 5), ("auto", "gpu", 5), (2, "gpu", 2)],
)  # fmt: skip
def test_number_of_ranks_by_nprocs_and_device(
    nprocs: int | str | None, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    monkeypatch.setattr(paddle.device.cuda, "device_count", lambda: 5)
    monkeypatch.setattr(entry.ranks, "choose_device", lambda wanted: device)
    monkeypatch.setattr(entry.ranks, "is_launched_rank", lambda: False)
    monkeypatch.setattr(entry, "run", lambda config: started.append(1))

    def launch(worker: Any, arguments: Any, *, ranks: int, device: str, grace: float) -> int:
        started.append(ranks)
        return 0

    monkeypatch.setattr(entry, "launch", launch)
    flags = [] if nprocs is None else [f"-nprocs={nprocs}"]
    assert entry.main(training_parser("main_multi_gpu.py"), single=False, argv=flags) == 0
    assert started == [expected]


@pytest.mark.parametrize("nprocs", ["auto", "2"])
def test_the_single_device_program_refuses_several_ranks(
    nprocs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        entry.main(training_parser("main_single_gpu.py"), single=True, argv=[f"-nprocs={nprocs}"])
        == entry.USER_ERROR
    )
    assert (
        f"-nprocs {nprocs}: main_single_gpu.py runs one rank; use main_multi_gpu.py"
        in capsys.readouterr().err
    )


def test_nprocs_is_a_number_or_auto() -> None:
    assert get_config(None, ["NPROCS", "auto"]).NPROCS == "auto"
    with pytest.raises(ValueError, match="NPROCS = 'all', expected an integer, or 'auto'"):
        get_config(None, ["NPROCS", "all"])


def test_a_single_process_on_a_cpu_suggests_several_ranks(tmp_path: Path) -> None:
    entry.run(
        tiny_config(
            write_dataset(tmp_path / "data"), tmp_path / "run", TRAIN__NUM_EPOCHS=1, TRAIN__WARMUP_EPOCHS=0.5
        )
    )
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert log.count("with -nprocs auto trains with one rank per core") == int(
        len(os.sched_getaffinity(0)) > 1
    )


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PADDLE_TRAINERS_NUM": "two"}, "PADDLE_TRAINERS_NUM is 'two'; expected a number"),
        ({"PADDLE_TRAINER_ID": "-1"}, "PADDLE_TRAINER_ID is '-1'; expected a number"),
        (
            {"PADDLE_TRAINER_ID": "7", "PADDLE_TRAINERS_NUM": "2"},
            "PADDLE_TRAINER_ID is 7 and PADDLE_TRAINERS_NUM is 2",
        ),
        *(
            (
                {"PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "2", "PADDLE_MASTER": place},
                f"PADDLE_MASTER begins with '{place}'; expected HOST:PORT",
            )
            for place in ("host", "host:99999", "host:")
        ),
        (
            {"PADDLE_TRAINER_ID": "0", "PADDLE_TRAINERS_NUM": "2"},
            "PADDLE_TRAINER_ENDPOINTS names 0 addresses",
        ),
    ],
)
def test_errors_name_wrong_launcher_variables(
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (
        entry.main(training_parser("main_multi_gpu.py"), single=False, argv=["-device=cpu"])
        == entry.USER_ERROR
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "unset the variables of an earlier launch" in line
