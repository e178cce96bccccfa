"""Files with a valid checksum that are not training states of this package: one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.files import read_checkpoint, write_checkpoint
from beit.config import dump
from beit.train.run import run
from beit.train.state_check import check_state
from tests.tiny import tiny_config, write_dataset

ARRAYS = {"w": np.zeros(2, np.float32)}
STATE: dict[str, Any] = {
    "model": ARRAYS,
    "model_ema": None,
    "optimizer": ARRAYS,
    "scaler": {},
    "step": 3,
    "best": -np.inf,
    "since_best": 0,
    "order": {"images": 3, "list of images": "ab", "TRAIN.REPEATED_AUG": False},
    "config": "SEED: 0\n",
}
TEXTS = np.array(["a"])
OBJECTS = np.array([{}], dtype=object)
NAN = {"w": np.array([np.nan], np.float32)}

FOREIGN: list[tuple[str, Any]] = [
    *((name, value) for name in ("model", "model_ema", "optimizer") for value in ([], 3, "x", {"w": 1.0}, {"w": None}, {0: np.zeros(1)}, {"w": TEXTS}, {"w": OBJECTS})),
    *((name, None) for name in STATE if name != "model_ema"),
    *(("scaler", value) for value in ([], 3, {"scale": "x"}, {"scale": np.zeros(2)}, {0: 1})),
    *(("step", value) for value in (-1, 1.5, "3", True, [3], np.zeros(1))),
    *(("since_best", value) for value in (-1, 1.5, "3", True)),
    *(("best", value) for value in ("x", np.nan, [], True, np.zeros(2))),
    *(("order", value) for value in ([], "x", {"images": np.zeros(3)}, {0: 1}, {"images": None})),
    *(("config", value) for value in (3, {}, "", "[", "3", "[" * 100_000, "a: 2020-13-45")),
]  # fmt: skip


def test_a_state_of_this_package_is_accepted():
    check_state(Path("a"), STATE)
    check_state(Path("a"), STATE | {"model_ema": ARRAYS, "scaler": {"scale": np.ones(1), "incr_count": 3}})


@pytest.mark.parametrize(("name", "value"), FOREIGN)
def test_entries_of_other_types_are_refused(name: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"^a\.pdparams is not a training state .* as '{name}', expected "
    ) as caught:
        check_state(Path("a.pdparams"), STATE | {name: value})
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", STATE)
def test_missing_entries_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"it has no entry '{name}'"):
        check_state(Path("a"), {key: value for key, value in STATE.items() if key != name})


@pytest.mark.parametrize("name", ["model", "model_ema", "optimizer"])
def test_tensors_that_are_not_finite_are_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"1 tensors of '{name}' have NaN or infinity, first w; continue an earlier"
    ):
        check_state(Path("a"), STATE | {name: NAN})


def test_a_run_that_cannot_be_continued_stays_as_it_is(tmp_path: Path) -> None:
    """Its config and class names too, whatever the checkpoint has in place of an entry."""
    data, folder = write_dataset(tmp_path / "data"), tmp_path / "run"
    first = tiny_config(data, folder, TRAIN__NUM_EPOCHS=1)
    run(first)
    file = folder / "latest.pdparams"
    state = read_checkpoint(file)
    name = next(iter(state["model"]))
    wrong = [
        state | {"model": state["model"] | {name: state["model"][name].astype(np.float64)}},
        state | {"model": state["model"] | {"a\nb": np.zeros(1)}},
        state | {"optimizer": {}},
        state | {"optimizer": {key: value[None] for key, value in state["optimizer"].items()}},
        state | {"order": {}},
        state | {"step": "3"},
        {"optimizer": 1, "order": 2},
        [1, 2],
        "text",
    ]
    config = tiny_config(data, folder, TRAIN__NUM_EPOCHS=2, MODEL__RESUME=str(file))
    for content in wrong:
        write_checkpoint(file, content)
        with pytest.raises(ValueError, match=r"latest\.pdparams") as caught:
            run(config)
        assert str(caught.value).isprintable()
        assert (folder / "config.yaml").read_text() == dump(first)
    write_checkpoint(file, state)
    run(config)
    assert (folder / "config.yaml").read_text() == dump(config)
