"""Files that name functions which run code are refused; nothing of them is imported or called."""

from __future__ import annotations

import os
import pickle
import pickletools
import struct

import pytest

from beit.checkpoint.files import read, read_checkpoint
from beit.containers.errors import CheckpointError, UnsafeFileError
from beit.containers.pickles import ACTIONS, VALUES
from tests.containers.container_writers import Call, Name, Persistent, body, dumps, torch_legacy, torch_zip

FOUR_BYTES = (1, (1,), Call("numpy", "dtype", ("f4", False, True)), False, b"1234")
CONTAINERS = {"m.pdparams": lambda code: code, "m.pth": torch_zip, "legacy.pkl": torch_legacy}

# Functions that run code, known from attacks on loaders with lists of forbidden or allowed names.
GADGETS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("__builtin__", "eval"),
    ("operator", "attrgetter"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("pickle", "loads"),
    ("pydoc", "pipepager"),
    ("timeit", "timeit"),
    ("types", "FunctionType"),
    ("copyreg", "__newobj__"),
    ("copyreg", "_reconstructor"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.crackfortran", "myeval"),
    ("numpy", "load"),
    ("numpy", "core.multiarray._reconstruct.__globals__"),
    ("collections", "_sys.modules"),
    ("argparse", "_os.system"),
    ("torch", "load"),
    ("torch.hub", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.jit.unsupported_tensor_ops", "execWrapper"),
    ("dall_e.encoder", "__builtins__"),
    ("__main__", "Net.__init__.__globals__"),
    ("nt", "system"),
    ("sys", "modules"),
    ("socket", "create_connection"),
    ("shutil", "rmtree"),
    ("pty", "spawn"),
    ("ctypes", "CDLL"),
    ("functools", "reduce"),
    ("paddle", "load"),
    ("dill._dill", "_create_function"),
]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def refused(path, name):
    with pytest.raises(UnsafeFileError, match=f"refused: it names {name}, .*nothing was run") as caught:
        read(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_command_is_refused_and_not_run(tmp_path, container, protocol):
    marker = tmp_path / "marker"
    code = pickle.dumps({"epoch": 3, "extra": Payload(marker)}, protocol)
    pickle.loads(code)
    assert marker.exists()  # the payload works where nothing guards against it
    marker.unlink()
    (tmp_path / container).write_bytes(CONTAINERS[container](code))
    refused(tmp_path / container, "posix.system")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / container)
    assert not marker.exists()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("gadget", GADGETS, ids=".".join)
def test_functions_that_run_code_are_refused_by_name(tmp_path, container, gadget):
    code = dumps({"w": Call(*gadget, ("echo",))})
    (tmp_path / container).write_bytes(CONTAINERS[container](code))
    refused(tmp_path / container, ".".join(gadget))


SYSTEM = body(Name("os", "system"))
WAYS = {
    "stack_global": b"\x8c\x02os\x8c\x06system\x93\x85R",
    "inst": b"(S'echo'\nios\nsystem\n",
    "obj": b"(" + SYSTEM + b"S'echo'\no",
    "newobj": SYSTEM + b")\x81",
    "newobj_ex": SYSTEM + b")}\x92",
    "partial": body(Call("functools", "partial", (Name("os", "system"), "echo"))),
    "partial by state": body(
        Call("functools", "partial", (Name("os", "system"),), state=(Name("os", "system"), (), {}, None))
    ),
    "inside a persistent id": body(Persistent(("storage", Call("os", "system", ("echo",)), "0", "cpu", 1))),
    "a __setstate__": body(Call("argparse", "Namespace", (), state={"__setstate__": Name("os", "system")})),
    "a __reduce__ by slots": body(
        Call("argparse", "Namespace", (), state=(None, {"__reduce__": Name("os", "system")}))
    ),
    "a method": body(Call("builtins", "getattr", (Name("os", "system"), "__call__"))),
    "a default factory": body(Call("collections", "defaultdict", (Name("os", "system"),))),
    "the type of a tensor": body(
        Call("torch._tensor", "_rebuild_from_type_v2", (Name("os", "system"), None, ("echo",), {}))
    ),
    "popped at once": SYSTEM + b"0N",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_name_a_function_is_refused(tmp_path, way):
    (tmp_path / "m.pdparams").write_bytes(b"\x80\x04" + body({"w": b"raw:" + WAYS[way]}) + b".")
    refused(tmp_path / "m.pdparams", "os.system")


# Attacks with nothing but allowed names or no names at all.
INVALID = {
    "extension registry": (b"raw:\x82\x01", "opcode b'\\\\x82'"),
    "out-of-band buffer": (b"raw:\x97", "opcode b'\\\\x97'"),
    "a call of text": (b"raw:" + body("os.system") + body(("echo",)) + b"R", "calls something that is not a named"),
    "a call of a result": (b"raw:" + body(Call("torch", "Size", ((1,),))) + b")R", "calls something that is not a named"),
    "state of a function": (b"raw:" + body(Name("numpy", "dtype")) + body((None, {"__call__": 1})) + b"b", "sets the state"),
    "state of a text": (b"raw:" + body("text") + body({"a": 1}) + b"b", "sets the state of a str"),
    "items of a class": (b"raw:" + body(Name("collections", "OrderedDict")) + b"(" + body("a") + body(1) + b"u", "stores items"),
    "members of a class": (b"raw:" + body(Name("collections", "OrderedDict")) + body("a") + b"a", "appends to a Global"),
    "persistent id": (Persistent(("storage", Name("torch", "FloatStorage"), "0", "cpu", 1)), "outside of itself"),
    "keyword arguments": (b"raw:" + body(Name("builtins", "tuple")) + b")" + body({"a": 1})[:-1] + b"u\x92", "with keywords"),
    "many arguments": (Call("builtins", "list", (0,) * 100), "very many arguments"),
    "array larger than its bytes": (
        Call("numpy.core.multiarray", "_reconstruct", (Name("numpy", "ndarray"), (0,), b"b"),
             (1, (1000,), Call("numpy", "dtype", ("f4", False, True)), False, b"1234")),
        "has 4 bytes",
    ),
    "array of negative size": (
        Call("numpy.core.multiarray", "_reconstruct", (Name("numpy", "ndarray"), (0,), b"b"),
             (1, (-1, -1), Call("numpy", "dtype", ("f4", False, True)), False, b"1234")),
        "shape",
    ),
    "array filled twice": (
        b"raw:" + body(Call("numpy", "ndarray", ((0,),), FOUR_BYTES)) + body(FOUR_BYTES) + b"b", "filled twice"
    ),
    "bytes beyond the file": (b"raw:\x8e" + struct.pack("<Q", 2**62), "cut short"),
    "text beyond the file": (b"raw:\x8d" + struct.pack("<Q", 2**62), "cut short"),
    "negative length": (b"raw:T" + struct.pack("<i", -1), "cut short"),
    "huge integer": (b"raw:\x8b" + struct.pack("<i", 2**30), "an integer of"),
    "entry of the memo far away": (b"raw:Nr" + struct.pack("<I", 2**31), "under a number far above"),
}  # fmt: skip


@pytest.mark.parametrize("attack", INVALID)
def test_attacks_with_allowed_names_are_refused(tmp_path, attack):
    value, text = INVALID[attack]
    (tmp_path / "m.pdparams").write_bytes(dumps({"w": value}))
    with pytest.raises(CheckpointError, match=text) as caught:
        read(tmp_path / "m.pdparams")
    assert "\n" not in str(caught.value)


def test_text_of_a_file_cannot_control_the_terminal(tmp_path):
    name = b"raw:\x8c\x0cnumpy.\x1b[31m\n\x8c\x04load\x93"
    (tmp_path / "m.pdparams").write_bytes(dumps({"w": name}))
    with pytest.raises(UnsafeFileError, match=r"numpy\.\\x1b\[31m\\n\.load") as caught:
        read(tmp_path / "m.pdparams")
    assert str(caught.value).isprintable()


def test_every_opcode_of_python_is_read_or_refused():
    known = {opcode.code.encode("latin-1") for opcode in pickletools.opcodes}
    refused_on_purpose = {
        b"\x82",
        b"\x83",
        b"\x84",
        b"\x97",
        b"\x98",
    }  # EXT1, EXT2, EXT4, NEXT_BUFFER, READONLY_BUFFER
    assert not set(VALUES) & set(ACTIONS)
    assert known - set(VALUES) - set(ACTIONS) == refused_on_purpose | {b"."}
