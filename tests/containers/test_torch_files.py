"""The zip files and legacy files of torch, written by hand: torch is not needed."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from beit.checkpoint.files import read
from beit.containers.errors import CheckpointError, UnsafeFileError
from tests.containers.container_writers import (
    STORAGES,
    Call,
    Name,
    Tensor,
    dumps,
    module,
    tensor,
    torch_legacy,
    torch_zip,
)

RNG = np.random.default_rng(0)
WRITERS = {"torch zip": torch_zip, "torch legacy": torch_legacy}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    """Writes a value in one of the two forms and reads it back."""

    def through(value):
        (tmp_path / "m.pth").write_bytes(WRITERS[request.param](value))
        contents = read(tmp_path / "m.pth")
        assert contents.container == request.param
        return contents

    return through


def test_all_dtypes_are_read(written):
    arrays = {name: (RNG.standard_normal((2, 3)) * 9).astype(name) for name in STORAGES if name != "uint16"}
    tree = written({name: tensor(array, str(key)) for key, (name, array) in enumerate(arrays.items())}).tree
    for name, array in arrays.items():
        assert tree[name].dtype == array.dtype and tree[name].flags.writeable
        np.testing.assert_array_equal(tree[name], array)


def test_bfloat16_is_cast_to_float32_and_reported(written):
    exact = np.array([[1.0, -2.5, 0.15625], [2.0**100, 2.0**-130, np.inf]], "f4")
    contents = written({"model": {"w": tensor((exact.view("u4") >> 16).astype("u2"), "0"), "n": 1}})
    np.testing.assert_array_equal(contents.tree["model"]["w"], exact)
    assert contents.tree["model"]["w"].dtype == np.float32
    assert contents.dtypes_cast == {"model.w": "bfloat16"}


def test_views_of_shared_storages_are_read(written):
    base = np.arange(12, dtype="f4")
    tree = written(
        {
            "all": Tensor(base, "7", (3, 4)),
            "transposed": Tensor(base, "7", (4, 3), 0, (1, 4)),
            "column": Tensor(base, "7", (3,), 1, (4,)),
            "expanded": Tensor(base, "7", (2, 4), 8, (0, 1)),
            "empty": Tensor(base, "7", (0, 4), 0, (4, 1)),
            "scalar": Tensor(base, "7", (), 5, ()),
        }
    ).tree
    grid = base.reshape(3, 4)
    expected = {"all": grid, "transposed": grid.T, "column": grid[:, 1], "expanded": np.stack([grid[2]] * 2)}
    for name, array in {**expected, "empty": grid[:0], "scalar": grid[1, 1]}.items():
        np.testing.assert_array_equal(tree[name], array)
        assert tree[name].shape == array.shape


def test_training_files_become_plain_data(written):
    ordered = Call(
        "collections", "OrderedDict", (), items={"w": tensor(np.ones(2, "f4"), "0")}, state={"_metadata": 1}
    )
    contents = written(
        {
            "model": ordered,
            "parameter": Call(
                "torch._utils",
                "_rebuild_parameter",
                (tensor(np.zeros(3), "1"), True, Call("collections", "OrderedDict", ())),
            ),
            "args": Call(
                "argparse",
                "Namespace",
                (),
                state={"lr": 1e-3, "device": Call("torch", "device", ("cuda", 0))},
            ),
            "size": Call("torch", "Size", ((1, 2),)),
            "dtype": Name("torch", "float32"),
            "best": Call(
                "numpy.core.multiarray",
                "scalar",
                (Call("numpy", "dtype", ("f8", False, True)), b"\0\0\0\0\0\0\xf0\x3f"),
            ),
            "history": Call("collections", "defaultdict", (Name("builtins", "list"),), items={"loss": [1.0]}),
            "steps": Call("__builtin__", "set", ([3, 4],)),
            "pair": ("name", Call("torch", "Size", ((1,),))),
            "version": Call("torch.torch_version", "TorchVersion", ("2.13.0",)),
            "call": Call("functools", "partial", (Name("dall_e.utils", "Conv2d"), 3)),
        }
    )
    tree = contents.tree
    np.testing.assert_array_equal(tree.pop("model")["w"], np.ones(2))
    np.testing.assert_array_equal(tree.pop("parameter"), np.zeros(3))
    assert tree == {
        "args": {"lr": 1e-3, "device": "cuda:0"},
        "size": (1, 2),
        "dtype": "torch.float32",
        "best": 1.0,
        "history": {"loss": [1.0]},
        "steps": {3, 4},
        "pair": ("name", (1,)),
        "version": "2.13.0",
        "call": {},
    }
    assert contents.left_out == ("functools.partial",)


def test_a_pickled_dalle_module_becomes_a_state_dict(written):
    weights = {name: RNG.standard_normal(2).astype("f4") for name in ("in.w", "in.b", "deep.w", "deep.b")}

    def conv(name):
        parameters = {part: tensor(weights[f"{name}.{part}"], f"{name}{part}") for part in "wb"}
        return module(("dall_e.utils", "Conv2d"), parameters, {})

    nn = "torch.nn.modules"
    path = module(
        (f"{nn}.container", "Sequential"),
        {},
        {"relu_1": module((f"{nn}.activation", "ReLU"), {}, {}), "conv_1": conv("deep")},
    )
    block = module(
        ("dall_e.encoder", "EncoderBlock"),
        {},
        {"id_path": module((f"{nn}.linear", "Identity"), {}, {}), "res_path": path},
    )
    pool = module((f"{nn}.pooling", "MaxPool2d"), {}, {})
    group = module((f"{nn}.container", "Sequential"), {}, {"block_1": block, "pool": pool})
    blocks = module((f"{nn}.container", "Sequential"), {}, {"input": conv("in"), "group_1": group})
    tree = written(module(("dall_e.encoder", "Encoder"), {}, {"blocks": blocks})).tree
    place = "blocks.group_1.block_1.res_path.conv_1"
    expected = {
        "blocks.input.w": "in.w",
        "blocks.input.b": "in.b",
        f"{place}.w": "deep.w",
        f"{place}.b": "deep.b",
    }
    assert list(tree) == list(expected)
    for name, weight in expected.items():
        np.testing.assert_array_equal(tree[name], weights[weight])


@pytest.mark.parametrize(
    "options",
    [
        {"compression": zipfile.ZIP_DEFLATED},
        {"extra": {"archive/byteorder": b"big"}},
        {"extra": {"archive/byteorder": b"little"}},
    ],
)
def test_compressed_and_big_endian_files_are_read(tmp_path, options):
    array = RNG.standard_normal((3, 5))
    (tmp_path / "m.pth").write_bytes(torch_zip({"w": tensor(array, "0")}, **options))
    np.testing.assert_array_equal(read(tmp_path / "m.pth").tree["w"], array)


BASE = np.arange(12, dtype="f4")


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (Tensor(BASE, "0", (13,)), "beyond its storage"),
        (Tensor(BASE, "0", (2, 2), 10), "beyond its storage"),
        (Tensor(BASE, "0", (2,), -1), "beyond its storage"),
        (Tensor(BASE, "0", (2,), 5, (-1,)), "beyond its storage"),
        (Tensor(BASE, "0", (3,), 0, (2**62,)), "beyond its storage"),
        (Tensor(BASE, "0", (-1,)), "shape"),
        (Tensor(BASE, "0", (1,) * 40), "shape"),
        (Tensor(BASE, "0", (10**6, 10**6), 0, (0, 0)), "unfold to many times"),
        (Tensor(BASE, "0", (2,), 0, (1.0,)), "no place in it"),
        (Call("torch._utils", "_rebuild_tensor_v2", (None, 0, (1,), (1,))), "no storage"),
        (Call("torch._utils", "_rebuild_tensor_v2", (b"1234", 0, (1,), (1,))), "no storage"),
    ],
)
def test_tensors_outside_of_their_storage_are_refused(tmp_path, bad, text):
    for name, writer in WRITERS.items():
        (tmp_path / name).write_bytes(writer({"good": Tensor(BASE, "0", (12,)), "bad": bad}))
        with pytest.raises(CheckpointError, match=text):
            read(tmp_path / name)


def test_a_torchscript_program_becomes_its_tensors(tmp_path):
    """As torch.jit.save writes it: objects of the file's own classes, whose state holds tensors, numbers and objects."""
    inner = {"weight": tensor(BASE, "0"), "training": True, "_is_full_backward_hook": None}
    visual = Call("__torch__.torch.nn.modules.linear", "Linear", (), state=inner)
    sizes = Call("torch.jit._pickle", "build_intlist", ([1, 2],))
    model = Call(
        "__torch__.clip.model",
        "CLIP",
        (),
        state={"scale": tensor(BASE[:1], "1"), "sizes": sizes, "visual": visual},
    )
    (tmp_path / "clip.pt").write_bytes(torch_zip(model, extra={"archive/constants.pkl": b""}))
    tree = read(tmp_path / "clip.pt").tree
    assert list(tree) == ["scale", "visual.weight"]
    np.testing.assert_array_equal(tree["visual.weight"], BASE)
    bad = torch_zip({"w": Call("os", "system", ("true",))}, extra={"archive/constants.pkl": b""})
    (tmp_path / "bad.pt").write_bytes(bad)
    with pytest.raises(UnsafeFileError, match="os.system"):
        read(tmp_path / "bad.pt")


def test_broken_archives_are_described(tmp_path):
    good = torch_zip({"w": tensor(BASE, "0")})
    flipped = good.replace(BASE.tobytes(), BASE[::-1].tobytes())
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = torch_zip({"w": 1}, extra={"archive/data.pkl": b"."})
    cases = {
        "checksum mismatch in archive/data/0": flipped,
        "table at the end of the zip file": good[:-30],
        "two data.pkl or two members": torch_zip({"w": 1}, extra={"other/data.pkl": b"."}),
        "two data.pkl or two members of one": twice,
        "member data/5 is missing": torch_zip(dumps({"w": tensor(BASE, "5")})),
        "storage 0 of 12 elements has 4 bytes": torch_zip(
            dumps({"w": tensor(BASE, "0")}), extra={"archive/data/0": b"1234"}
        ),
        "zip bomb": torch_zip(
            {"w": 1}, compression=zipfile.ZIP_DEFLATED, extra={"archive/data/0": bytes(1 << 27)}
        ),
    }
    for text, content in cases.items():
        (tmp_path / "m.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=text):
            read(tmp_path / "m.pth")


def test_damaged_legacy_files_are_described(tmp_path):
    good = torch_legacy({"w": tensor(BASE, "0")})
    cases = {
        "version 1002": good.replace(b"M\xe9\x03.", b"M\xea\x03.", 1),
        "4 bytes follow": good + b"more",
        "cut short": good[:-1],
        "older|newer torch": good.replace(b"Nt", b"K\x01t", 1),
    }
    for text, content in cases.items():
        (tmp_path / "m.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match=text):
            read(tmp_path / "m.pth")
