"""Reading and writing of checkpoint files."""

from __future__ import annotations

import base64
import collections
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors.numpy

from beit.checkpoint.files import nonfinite_names, read, read_checkpoint, write, write_checkpoint
from beit.containers.errors import CheckpointError
from tests.containers.container_writers import tensor, torch_legacy

RNG = np.random.default_rng(0)
STATE = {
    "blocks.0.attn.qkv.weight": RNG.standard_normal((4, 12)).astype("f4"),
    "blocks.0.attn.relative_position_index": np.arange(9).reshape(3, 3),
    "half": RNG.standard_normal(5).astype("f2"),
    "double": RNG.standard_normal(5),
    "scalar": np.array(2.5, "f4"),
    "none": np.zeros((0, 3), "f4"),
    "flags": np.array([True, False]),
    "bytes": np.arange(5000).astype(
        "u1"
    ),  # NumPy copies the content of short arrays and views that of long ones
}
TRAINING = {
    "model": STATE,
    "optimizer": {
        "lr": np.float64(0.1),
        "step": 7,
        "moments": [STATE["half"], STATE["double"]],
        0: "int key",
    },
    "rng": ("MT19937", np.arange(624, dtype="u4"), 3, -1.5),
    "pair": ("name", np.arange(3)),
    "bits": np.arange(3, dtype="u2"),
    "odd": [None, True, False, -1, 2**70, -(2**70), 0, 255, "ü\n", b"\0\xff", float("inf"), (), [], {}],
}
# A training state as version 0.1.0 of this package wrote it, with opcodes and names that it no longer writes.
FORMER_FILE = zlib.decompress(base64.b64decode(
    "eNq1k81OwkAQgHcFAzQ+hMdeJPSXNiEBMcYfIgfk0JvZbrdIUlqyTKMYSThC30DfxMTEgy/lDbcFjCYoB3UOszOzs7Pf7M80"
    "P5GdXYTQIPJYIGws7BsaxoPhuEwjzsqDOIA+4ZyMpSvOaBSOgMcUJHmZJIXeclJuITjCLnTkFpYTnEswhlWKB+Mhk2RnR9T2"
    "9fkszcllO9Xa7fb5QkimRAV33txDa5nWhWqA6+TFeE0C/w+4djZCqdugUgJUQ7UVjB+Q3q9hNpG4ymeS+w0kaRyDGzslYURD"
    "6A/6d4xPlssD/g3ViJKA8A+eL81bPzffLIrw40MqT3XoZP2PgA0TXEgwktuzBC+S0vrOGkHs5MTIw57sFIRx0VVsW6v+19XF"
    "W99TcUWWzoN78vK2dCFrBNgtZHVen7Nv4I6BjbIzRnFZah6fdQ8uTw9Vw9z3fcMwbNU1VVPzbNukmmVrHq1WTYMy3RC+ZjFS"
    "MRhRVFs3dYXYFdXSmUWJ7jHFkN4Bc14SmQ=="
))  # fmt: skip
FORMER_STATE = {
    "model": {"w": np.arange(3, dtype="f4").reshape(3, 1), "half": np.ones(2, "f2"), "flag": np.array(True)},
    "optimizer": {"lr": np.float64(0.1), "step": 7, 0: [None, True, -1, 2**70]},
    "rng": ("MT19937", np.arange(2, dtype="u4"), -1.5),
    "text": "ü",
    "bytes": b"\0",
}


def assert_same(got, expected):
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for key in expected:
            assert_same(got[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(got) == len(expected)
        for one, other in zip(got, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert got.dtype == expected.dtype and got.shape == expected.shape
        np.testing.assert_array_equal(got, expected)
    else:
        assert got == expected


@pytest.mark.parametrize("suffix", [".pdparams", ".pdopt", ".safetensors"])
def test_what_is_written_is_read(tmp_path, suffix):
    write(tmp_path / f"m{suffix}", STATE)
    contents = read(tmp_path / f"m{suffix}")
    assert_same({name: contents.tree[name] for name in STATE}, STATE)
    assert len(contents.tree) == len(STATE) and contents.dtypes_cast == {}
    assert all(array.flags.writeable for array in contents.tree.values())
    assert list(tmp_path.iterdir()) == [tmp_path / f"m{suffix}"]


def test_strided_and_big_endian_arrays_are_written(tmp_path):
    state = {"t": STATE["blocks.0.attn.qkv.weight"].T, "e": np.arange(4, dtype=">f4")}
    for name in ("m.pdparams", "m.safetensors"):
        write(tmp_path / name, state)
        tree = read(tmp_path / name).tree
        np.testing.assert_array_equal(tree["t"], state["t"])
        np.testing.assert_array_equal(tree["e"], state["e"])


def test_paddle_loads_what_is_written(tmp_path):
    write(tmp_path / "flat.pdparams", STATE)
    loaded = paddle.load(str(tmp_path / "flat.pdparams"))
    assert list(loaded) == list(STATE)
    for name, array in STATE.items():
        assert isinstance(loaded[name], paddle.Tensor) and loaded[name].name == name
        np.testing.assert_array_equal(loaded[name].numpy(), array)
    write_checkpoint(tmp_path / "nested.pdparams", {"model": STATE, "epoch": 3})
    nested = paddle.load(str(tmp_path / "nested.pdparams"))
    assert nested["epoch"] == 3
    np.testing.assert_array_equal(nested["model"]["double"].numpy(), STATE["double"])


def test_pickles_use_names_of_both_numpy_1_and_2(tmp_path):
    write_checkpoint(
        tmp_path / "m.pdparams", {"model": STATE, "flag": np.bool_(True), "rate": np.float32(0.1)}
    )
    content = (tmp_path / "m.pdparams").read_bytes()
    assert b"_core" not in content and b"bool_" in content and b"ndarray" in content
    loaded = pickle.loads(content)
    assert_same(loaded, {"model": STATE, "flag": np.bool_(True), "rate": np.float32(0.1)})
    assert all(array.flags.writeable for array in loaded["model"].values())
    assert_same(read_checkpoint(tmp_path / "m.pdparams"), loaded)


def test_equal_states_give_equal_bytes(tmp_path):
    """Whichever of their texts and arrays are one object, and in whichever kind of dictionary they are."""
    name = "block"
    one = {name: np.arange(3), "names": [name, name], "n": [1000, 1000]}
    array = np.arange(3)
    two = collections.OrderedDict(
        {"".join("block"): array, "names": ["".join(["bl", "ock"]), name], "n": [1000, 10**3]}
    )
    for number, state in enumerate((one, two)):
        write_checkpoint(tmp_path / f"{number}.pdparams", state)
    assert (tmp_path / "0.pdparams").read_bytes() == (tmp_path / "1.pdparams").read_bytes()


def test_training_states_of_the_former_version_are_read(tmp_path):
    (tmp_path / "latest.pdparams").write_bytes(FORMER_FILE)
    assert_same(read_checkpoint(tmp_path / "latest.pdparams"), FORMER_STATE)
    assert_same(read(tmp_path / "latest.pdparams").tree["model"], FORMER_STATE["model"])


MEGABYTES = 32
LARGE = {f"{n}": np.full(MEGABYTES << 15, n, "f4") for n in range(8)}  # of MEGABYTES / 8 each


def peak_of(function, *arguments):
    """Bytes that a call needs at most."""
    tracemalloc.start()
    try:
        result = function(*arguments)
        return tracemalloc.get_traced_memory()[1], result
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["m.pdparams", "m.safetensors", "m.pth", "legacy.pth"])
def test_each_array_is_in_memory_once(tmp_path, name):
    if name == "legacy.pth":
        (tmp_path / name).write_bytes(torch_legacy({key: tensor(array, key) for key, array in LARGE.items()}))
    else:
        written, _ = peak_of(write, tmp_path / name, LARGE)
        assert written < (MEGABYTES / 8 + 2) * 2**20  # one array, and the buffers of files
    peak, contents = peak_of(read, tmp_path / name)
    assert_same(contents.tree, LARGE)
    assert peak < (MEGABYTES + 2) * 2**20


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_reads_what_paddle_saves(tmp_path, protocol):
    path = str(tmp_path / "m.pdparams")
    tensors = {name: paddle.to_tensor(array) for name, array in STATE.items()}
    paddle.save(tensors, path, protocol=protocol)
    assert_same(read(path).tree, STATE)
    paddle.save({"model": tensors, "epoch": 3, "rate": [0.1]}, path, protocol=protocol)
    assert_same(read(path).tree, {"model": STATE, "epoch": 3, "rate": [0.1]})


def test_reads_the_optimizer_state_of_paddle(tmp_path):
    layer = paddle.nn.Linear(2, 2)
    rate = paddle.optimizer.lr.CosineAnnealingDecay(0.1, 10)
    optimizer = paddle.optimizer.AdamW(rate, parameters=layer.parameters())
    layer(paddle.ones([1, 2])).sum().backward()
    optimizer.step()
    paddle.save(optimizer.state_dict(), str(tmp_path / "m.pdopt"))
    tree = read(tmp_path / "m.pdopt").tree
    assert tree["LR_Scheduler"]["last_epoch"] == 0
    moments = [name for name in tree if "moment1" in name]
    for name in moments:
        np.testing.assert_array_equal(tree[name], optimizer.state_dict()[name].numpy())
    assert len(moments) == 2


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_reads_plain_pickles_of_arrays(tmp_path, protocol):
    passl = {"epoch": 2, "state_dict": STATE, "time": np.float32(1.5), "set": {1, "a"}}
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(passl, protocol))
    assert_same(read(tmp_path / "m.pdparams").tree, passl)


def test_slices_of_large_arrays_are_joined(tmp_path):
    """The form paddle.save gives arrays above 1 GB in protocols 2 and 3 (paddle/framework/io_utils.py)."""
    sliced = {
        "a": np.arange(2),
        "w@@.0": np.arange(4.0),
        "w@@.1": np.arange(4.0, 6.0),
        "UnpackBigParamInfor@@": {"w": {"OriginShape": (2, 3), "slices": ["w@@.0", "w@@.1"]}},
    }
    (tmp_path / "m.pdparams").write_bytes(pickle.dumps(sliced, 2))
    assert_same(read(tmp_path / "m.pdparams").tree, {"a": np.arange(2), "w": np.arange(6.0).reshape(2, 3)})


def test_bfloat16_of_paddle_is_cast_to_float32_and_reported(tmp_path):
    values = paddle.to_tensor([1.0, -2.5, 3e38, 1e-40]).astype("bfloat16")
    paddle.save({"a": values}, str(tmp_path / "flat.pdparams"))
    paddle.save({"model": {"a": values}, "n": 1}, str(tmp_path / "nested.pdparams"))
    flat, nested = read(tmp_path / "flat.pdparams"), read(tmp_path / "nested.pdparams")
    assert_same(flat.tree["a"], values.astype("float32").numpy())
    assert_same(nested.tree["model"]["a"], values.astype("float32").numpy())
    assert flat.dtypes_cast == {"a": "bfloat16"} and nested.dtypes_cast == {"model.a": "bfloat16"}


def test_safetensors_files_agree_with_the_safetensors_package(tmp_path):
    write(tmp_path / "ours.safetensors", STATE, metadata={"format": "pd"})
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert_same({name: theirs[name] for name in STATE}, STATE)
    assert read(tmp_path / "ours.safetensors").metadata == {"format": "pd"}
    safetensors.numpy.save_file(STATE, tmp_path / "theirs.safetensors", metadata={"a": "b"})
    contents = read(tmp_path / "theirs.safetensors")
    assert_same({name: contents.tree[name] for name in STATE}, STATE)
    assert contents.metadata == {"a": "b"} and contents.container == "safetensors"


def test_training_checkpoint_comes_back_unchanged(tmp_path):
    write_checkpoint(tmp_path / "latest.pdparams", TRAINING)
    assert_same(read_checkpoint(tmp_path / "latest.pdparams"), TRAINING)


def test_training_checkpoint_must_carry_its_checksum(tmp_path):
    path = tmp_path / "latest.pdparams"
    write_checkpoint(path, TRAINING)
    content = path.read_bytes()
    path.write_bytes(content[:-78])
    with pytest.raises(CheckpointError, match="no checksum at its end"):
        read_checkpoint(path)
    at = content.index(STATE["double"].tobytes())
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    for reader in (read, read_checkpoint):
        with pytest.raises(CheckpointError, match=r"latest\.pdparams: checksum mismatch"):
            reader(path)


def test_nonfinite_arrays_are_named_in_order():
    state = {
        "a": np.ones(3),
        "b": np.array([1, np.nan]),
        "c": np.arange(3),
        "d": np.full((2, 2), -np.inf, "f2"),
    }
    late = np.zeros(3_000_000, "f4")
    late[-1] = np.nan
    assert nonfinite_names({**state, "late": late, "n": 1}) == ["b", "d", "late"]


@pytest.mark.parametrize(
    ("name", "tree", "metadata", "text"),
    [
        ("m.bin", STATE, None, "extension must be .pdparams"),
        ("m.pth", STATE, {"a": "b"}, "only .safetensors and .pdparams hold metadata"),
        ("m.pth", {"a": {"b": print}}, None, r"a\.b is a builtin_function_or_method"),
        ("m.pdparams", {"f": print}, None, "f is a builtin_function_or_method"),
        ("m.pdparams", {"a": {"b": np.array([None])}}, None, "a.b has dtype object"),
        ("m.pdparams", {"a": {(1, 2): 3}}, None, "a has the key"),
        ("m.pdparams", {"k" * 1025: 3}, None, "the tree has the key"),
        ("m.safetensors", [STATE], None, "flat dict of arrays, not a list"),
        ("m.safetensors", {"model": STATE}, None, "model is dict"),
        ("m.safetensors", {"c": np.ones(2, "c8")}, None, "c is complex64"),
        ("m.safetensors", STATE, {"epoch": 3}, "metadata epoch must be text"),
    ],
)
def test_values_that_cannot_be_written_are_errors_and_leave_no_file(tmp_path, name, tree, metadata, text):
    with pytest.raises(ValueError, match=text):
        write(tmp_path / name, tree, metadata=metadata)
    assert list(tmp_path.iterdir()) == []


def test_trees_that_contain_themselves_are_not_written(tmp_path):
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="nested deeper"):
        write(tmp_path / "m.pdparams", {"a": loop})


def test_reading_imports_neither_paddle_nor_torch():
    code = "import beit.checkpoint.convert, beit.checkpoint.fit, sys; print({'paddle', 'torch'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
