"""Damaged files of each form, made at random: a value or an error of a known type, in bounded time.

`BEIT_FUZZ_SECONDS` (20) is the time of all forms together, `BEIT_FUZZ_SEED` (0) draws other damages.
"""

from __future__ import annotations

import collections
import os
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from beit.checkpoint.files import read, write, write_checkpoint
from beit.containers.errors import CheckpointError
from beit.containers.pickles import ACTIONS, VALUES
from tests.checkpoint.fuzzing import limited_time
from tests.containers.container_writers import (
    Call,
    Name,
    Tensor,
    dumps,
    module,
    tensor,
    torch_legacy,
    torch_zip,
)

SECONDS = float(os.environ.get("BEIT_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("BEIT_FUZZ_SEED", "0"))

STATE = {"a.weight": np.arange(12, dtype="f4").reshape(3, 4), "b": np.arange(3), "c": np.ones(2, "u2")}
TENSORS = {name: tensor(array, name) for name, array in STATE.items()}
TRAINING = {
    "model": Call("collections", "OrderedDict", (), items=TENSORS, state={"_metadata": 1}),
    "view": Tensor(np.arange(12, dtype="f4"), "d", (2, 3), 1, (1, 4)),
    "parameter": Call("torch._utils", "_rebuild_parameter", (TENSORS["b"], True, {})),
    "net": module(("m", "Net"), TENSORS, {"child": module(("m", "Net"), TENSORS, {})}),
    "args": Call(
        "argparse", "Namespace", (), state={"lr": 1e-3, "device": Call("torch", "device", ("cuda", 0))}
    ),
    "score": Call("numpy.core.multiarray", "scalar", (Call("numpy", "dtype", ("f8", False, True)), bytes(8))),
    "hub": Call(
        "mmengine.logging", "HistoryBuffer", (), state={"max": 3, "min": Name("m", "HistoryBuffer.min")}
    ),
    "set": Call("builtins", "set", ([1, 2, "a"],)),
    "more": [None, True, -1, 2**40, 1.5, "ü", b"\0\1", (), {1: 2}],
}
PLAIN = {"w": STATE, "more": [1, 2.5, "a", (1, 2), {3}, frozenset("b"), b"c", bytearray(b"d")], "big": 2**70}

Pack = Callable[[bytes], bytes]


def as_it_is(content: bytes) -> bytes:
    return content


def written(path: Path) -> bytes:
    content = path.read_bytes()
    return (
        content.removesuffix(content[-78:]) if path.suffix == ".pdparams" else content
    )  # without the checksum


def forms(folder: Path) -> Iterator[tuple[str, bytes, Pack]]:
    """Name, a valid file, and what is done to it after it was damaged."""
    write(folder / "flat.pdparams", STATE)
    write(folder / "flat.safetensors", STATE, metadata={"a": "b"})
    write_checkpoint(
        folder / "nested.pdparams", {"model": STATE, "more": PLAIN["more"][:4], "lr": np.float64(0.1)}
    )
    yield "flat pickle", written(folder / "flat.pdparams"), as_it_is
    yield "training state", written(folder / "nested.pdparams"), as_it_is
    yield "safetensors", written(folder / "flat.safetensors"), as_it_is
    for protocol in range(6):
        yield f"pickle of protocol {protocol}", pickle.dumps(PLAIN, protocol), as_it_is
    yield "torch zip", torch_zip(TRAINING), as_it_is
    yield "compressed torch zip", torch_zip(TRAINING, compression=zipfile.ZIP_DEFLATED), as_it_is
    yield "torch legacy", torch_legacy(TRAINING), as_it_is
    storages = {f"archive/data/{name}": array.tobytes() for name, array in STATE.items()}
    storages["archive/data/d"] = np.arange(12, dtype="f4").tobytes()
    yield "pickle in a torch zip", dumps(TRAINING), lambda content: torch_zip(content, extra=storages)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    opcodes = [*VALUES, *ACTIONS]
    for _ in range(rng.integers(1, 6)):
        place, other = (int(n) for n in rng.integers(0, len(changed) + 1, 2))
        length = int(rng.integers(1, 40))
        match rng.integers(0, 6):
            case 0:
                changed[place : place + 1] = bytes(rng.integers(0, 256, 1, np.uint8))
            case 1:
                changed[place : place + 1] = opcodes[rng.integers(0, len(opcodes))]
            case 2:
                changed[place:place] = opcodes[rng.integers(0, len(opcodes))]
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[other : other + length]
            case 5:
                changed[place : place + 4] = int(rng.integers(-2, 2**31)).to_bytes(8, "little", signed=True)[
                    :4
                ]
        if not changed:
            return content[: len(content) // 2]
    return bytes(changed)


@pytest.mark.slow
def test_damaged_files_give_a_value_or_a_known_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    prepared = list(forms(tmp_path))
    outcomes: collections.Counter[str] = collections.Counter()
    path = tmp_path / "damaged"
    for name, content, pack in prepared:
        end = time.monotonic() + SECONDS / len(prepared)
        while time.monotonic() < end:
            state = rng.bit_generator.state
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of two members of one name, and of overflowing numbers
                path.write_bytes(pack(damaged(content, rng)))
                try:
                    with limited_time():
                        assert isinstance(read(path).tree, dict)
                    outcomes[f"{name}: read"] += 1
                except (CheckpointError, OSError) as error:
                    assert str(error).isprintable()
                    outcomes[f"{name}: {type(error).__name__}"] += 1
                except Exception as error:
                    kept = Path(os.environ.get("BEIT_FUZZ_KEEP", tmp_path)) / "found"
                    kept.write_bytes(path.read_bytes())
                    pytest.fail(f"{name}: {type(error).__name__}: {error} of {kept}, {state}")
    print(sum(outcomes.values()), "files", dict(outcomes))
    for name, _, _ in prepared:
        assert outcomes[f"{name}: CheckpointError"], f"{name} was never damaged"
