"""Small files that would crash the interpreter, never end or fill the memory, and a process with limits that reads them."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.containers.container_writers import (
    Call,
    Name,
    Persistent,
    body,
    dumps,
    module,
    tensor,
    torch_legacy,
    torch_zip,
)

SECONDS = 30  # of the processor for one file; the slowest takes 2
# Reads each file that is named on standard input in a process of its own, within the memory that `arrays` promises and 16 MiB
# for the interpreter. Prints the result on one line, and on another how the process ended.
READER = f"""
import os, resource, signal, sys, time
from pathlib import Path
from beit.containers.arrays import MEMORY_MINIMUM, MEMORY_MULTIPLE
from beit.containers.errors import CheckpointError
from beit.checkpoint.files import read

def kibibytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

def report(path):
    size = path.stat().st_size
    limit = (kibibytes("VmSize") << 10) + MEMORY_MULTIPLE * size + MEMORY_MINIMUM + (16 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.setitimer(signal.ITIMER_PROF, {SECONDS})  # its signal ends the process
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
    before, start = kibibytes("VmRSS"), time.process_time()
    try:
        outcome = " ".join(("read", *read(path).left_out))
    except CheckpointError as error:
        outcome = f"{{type(error).__name__}} {{error}}"
    mebibytes = (kibibytes("VmHWM") - before) / 1024
    return f"{{size / 1e6:.2f}} MB, {{mebibytes:.0f}} MiB, {{time.process_time() - start:.1f}} s: {{outcome}}"

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        try:
            print(report(Path(line.strip())), flush=True)
        finally:
            os._exit(0)
    print("end", os.waitpid(pid, 0)[1], flush=True)
"""

DEEP = b")" + b"\x85" * 200_000  # a tuple in a tuple ... in a tuple
# A list of ten times the list before it, and so on: 10^30 entries if all references are followed.
SHARED = b"]q\0" + b"".join(b"0](" + (b"h" + bytes([n])) * 10 + b"eq" + bytes([n + 1]) for n in range(30))
ARRAY = body(
    Call("numpy", "ndarray", ((0,),), (1, (2,), Call("numpy", "dtype", ("u2", False, True)), False, b"1234"))
)
TOO_LARGE = "CheckpointError .*unfold to many times the size"
NO_SHORT_NAME = "CheckpointError .*whose name is no short text"


def raw(code: bytes) -> bytes:
    return b"raw:" + code


def pickled(code: bytes) -> bytes:
    """A protocol 4 pickle of {"w": an array, "x": what `code` pushes}."""
    return b"\x80\x04" + body({"w": raw(ARRAY), "x": raw(code)}) + b"."


def memo(code: bytes, index: int) -> bytes:
    """Opcodes that store a value in the memo and leave the stack as it was."""
    return code + b"r" + struct.pack("<I", index) + b"0"


def repeated(first: bytes, again: bytes, count: int = 200_000) -> bytes:
    return first + b"(" + again * count + b"l"


def storage(code: bytes, place: int) -> bytes:
    """A torch zip file with a persistent id of which one part is what `code` pushes."""
    parts = ["storage", Name("torch", "FloatStorage"), "0", "cpu", 1]
    parts[place] = raw(code)
    return torch_zip(b"\x80\x02" + body({"w": Persistent(tuple(parts))}) + b".")


def deep_module(names: list[str], tensors: dict[str, object]) -> object:
    found: object = module(("m", "Net"), tensors, {})
    for name in names:
        found = module(("m", "Net"), {}, {name: raw(body(found))})
    return found


def nested(names: list[str], content: object) -> dict[str, object]:
    for name in names[1:]:
        content = {name: content}
    return {names[0]: content}


def twice_held_children(levels: int = 40) -> object:
    """A module whose state has one child under two names, and so on: 2^40 tensors."""
    found: object = module(("m", "Net"), {"w": raw(ARRAY)}, {})
    for level in range(levels):
        index = struct.pack("<I", 100 + level)
        children = {"a": raw(body(found) + b"r" + index), "b": raw(b"j" + index)}
        found = module(("m", "Net"), {}, children)
    return found


def colliding_integers(entries: int = 1 << 17, small: float = 0.6, large: int = 8_000) -> bytes:
    """Keys of which each new one is compared with about half of those before it, in CPython's table of 2^17 entries."""
    mask = entries - 1
    place, occupied, keys = 1, np.zeros(entries, bool), []
    for _ in range(int(small * entries)):
        keys.append(place)
        occupied[place] = True
        place = (5 * place + 1) & mask
    rng, chosen = np.random.default_rng(0), np.zeros(0, np.int64)
    while len(chosen) < large:
        candidates = rng.integers(2**40, 2**59, 1 << 20)
        place, good = candidates & mask, np.ones(len(candidates), bool)
        for shift in range(0, 65, 5):
            good &= occupied[place]
            place = (5 * place + (candidates >> min(shift + 5, 63)) + 1) & mask
        chosen = np.concatenate([chosen, candidates[good]])
    code = b"".join(b"J" + struct.pack("<i", key) + b"N" for key in keys)
    return (
        b"}(" + code + b"".join(b"\x8a\x08" + struct.pack("<q", key) + b"N" for key in chosen[:large]) + b"u"
    )


def understated(member: str) -> bytes:
    """A zip file one member of which says 100 bytes and inflates to 256 MiB."""
    content = torch_zip(
        {"w": tensor(np.zeros(25, "f4"), "0")},
        compression=zipfile.ZIP_DEFLATED,
        extra={"archive/byteorder": b"little"},
    )
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = {info.filename: (info, archive.read(info)) for info in archive.infolist()}
    members, directory = b"", b""
    for name, (info, data) in infos.items():
        method, packed, size = (8, bomb, 100) if name == f"archive/{member}" else (0, data, len(data))
        fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, info.CRC, len(packed), size, len(name), 0)
        place = struct.pack("<HHHII", 0, 0, 0, 0, len(members))
        directory += b"PK\1\2" + struct.pack("<H", 20) + fields + place + name.encode()
        members += b"PK\3\4" + fields + name.encode() + packed
    end = struct.pack("<HHHHIIH", 0, 0, len(infos), len(infos), len(directory), len(members), 0)
    return members + directory + b"PK\5\6" + end


def big_endian_storage() -> bytes:
    """A storage of 1.4 MB, of which 100,000 tensors are made."""
    array = np.zeros(350_000, "f4")
    function = body(Name("torch._utils", "_rebuild_tensor_v2"))
    arguments = body(tensor(array, "0"))[len(function) : -len(b"R")]
    code = memo(function, 100) + memo(arguments, 101) + repeated(b"", b"hdheR", 100_000)
    extra = {"archive/byteorder": b"big", "archive/data/0": array.tobytes()}
    return torch_zip(b"\x80\x02" + body({"w": raw(code)}) + b".", extra=extra)


def many_members() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_zip({"w": 1}, extra={f"{n}": b"" for n in range(50_000)})


def bare_members(count: int = 300_000) -> bytes:
    """Entries of the table at the end of a zip file, 52 bytes each, all of one member."""
    member = b"PK\3\4" + bytes(26)
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 6) + bytes(16)
    table = b"".join(entry + b"%06x" % n for n in range(count))
    zip64 = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, len(table), len(member))
    locator = b"PK\6\7" + struct.pack("<IQI", 0, len(member) + len(table), 1)
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return member + table + zip64 + locator + end


def safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


LONG_BYTES = b"B" + struct.pack("<I", 1_000_000) + bytes(1_000_000)
LONG_TEXT = b"X" + struct.pack("<I", 1_000_000) + b"a" * 1_000_000
MANY = [f"{n:04d}" + "k" * 1000 for n in range(95)]

# Name -> the content of the file, and what is printed when it is read.
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # a hash of deeply nested tuples crashes CPython
    "a deep tuple as value": (lambda: pickled(DEEP), "nested deeper than 100 levels"),
    "a deep tuple as module name": (lambda: pickled(DEEP + b"\x8c\x01n\x93"), NO_SHORT_NAME),
    "a deep tuple as function name": (lambda: pickled(b"\x8c\x01m" + DEEP + b"\x93"), NO_SHORT_NAME),
    "a deep tuple as callee": (lambda: pickled(DEEP + b")R"), "calls something that is not a named class"),
    "a deep tuple as key": (lambda: pickled(b"}" + DEEP + b"Ns"), "read .*key is a tuple"),
    "a deep tuple in a set": (lambda: pickled(b"\x8f(" + DEEP + b"\x90"), "read .*key is a tuple"),
    "a deep tuple as dtype": (lambda: pickled(b"cnumpy\ndtype\n" + DEEP + b"\x85R"), "read numpy.dtype"),
    "a deep tuple as shape": (lambda: pickled(b"cnumpy\nndarray\n)R(K\1" + DEEP + body(Call("numpy", "dtype", ("f4",))) + b"\x89C\0tb"), "sizes"),
    "a deep tuple as attribute": (lambda: pickled(b"cbuiltins\ngetattr\n(cm\nC\n" + DEEP + b"tR"), "UnsafeFileError .*getattr"),
    "a deep tuple as name of a slice": (
        lambda: dumps({"w": raw(ARRAY), "UnpackBigParamInfor@@": {"w": {"slices": raw(b"(" + DEEP + b"l")}}}),
        "nested deeper than 100 levels",
    ),
    "a deep tuple as storage key": (lambda: storage(DEEP, 2), "storage without key"),
    "a deep tuple as storage class": (lambda: storage(DEEP, 1), "storage of class"),
    "a deep tuple as kind of persistent id": (lambda: storage(DEEP, 0), "persistent id that is not"),
    "a deep tuple as legacy persistent id": (lambda: torch_legacy(b"\x80\x02}" + DEEP + b"Q."), "persistent id that is not"),
    "deep lists and dictionaries": (lambda: pickled(b"]" * 200_000 + b"a" * 199_999), "nested deeper than 100 levels"),
    "a list in itself": (lambda: pickled(b"]q\0h\0a"), "nested deeper than 100 levels"),
    # printing or following shared lists never ends
    "a shared list as value": (lambda: pickled(SHARED), TOO_LARGE),
    "a shared list as device": (lambda: torch_zip(b"\x80\x02}X\1\0\0\0wctorch\ndevice\n" + SHARED + b"\x85Rs."), "read"),
    "a shared list as dtype": (lambda: pickled(b"cnumpy\ndtype\n" + SHARED + b"\x85R"), "read numpy.dtype"),
    "a shared list as shape": (lambda: pickled(b"cnumpy\nndarray\n)R(K\1" + SHARED + body(Call("numpy", "dtype", ("f4",))) + b"\x89C\0tb"), "sizes"),
    "a shared list as size of a number": (lambda: pickled(b"cnumpy\nfloat32\n" + SHARED + b"\x85R"), "made of a list"),
    "a shared list as module name": (lambda: pickled(SHARED + b"\x8c\x01n\x93"), NO_SHORT_NAME),
    "a shared list as storage class": (lambda: storage(SHARED, 1), "storage of class"),
    "a shared list as number of elements": (lambda: storage(SHARED, 4), "storage without key and size"),
    "a shared list as name of a slice": (
        lambda: dumps({"w": raw(ARRAY), "UnpackBigParamInfor@@": {"w": {"slices": raw(b"(" + SHARED + b"l")}}}), TOO_LARGE
    ),
    "a shared list as legacy version": (
        lambda: torch_legacy({"w": 1}).replace(b"M\xe9\x03.", SHARED + b".", 1), "version of type list"
    ),
    "a shared list as legacy keys": (lambda: torch_legacy({}).removesuffix(b"]q\0.") + b"](" + SHARED + b"e.", "a storage that no tensor uses"),
    # one long value, named often
    "one byte string 200,000 times": (lambda: pickled(repeated(memo(LONG_BYTES, 100), b"hd")), "read"),
    "one byte string as 200,000 arrays": (
        lambda: pickled(
            memo(b"cnumpy._core.numeric\n_frombuffer\n", 100)
            + memo(b"(" + LONG_BYTES + body(Call("numpy", "dtype", ("u1",))) + body((1_000_000,)) + body("C") + b"t", 101)
            + repeated(b"", b"hdheR")
        ),
        TOO_LARGE,
    ),
    "one text encoded 200,000 times": (
        lambda: pickled(memo(b"c_codecs\nencode\n", 100) + memo(LONG_TEXT + b"\x85", 101) + repeated(b"", b"hdheR")), TOO_LARGE
    ),
    "one text as part of 200,000 devices": (
        lambda: torch_zip(
            b"\x80\x02" + body({"w": raw(memo(b"ctorch\ndevice\n", 100) + memo(LONG_TEXT + b"2\x86", 101) + repeated(b"", b"hdheR"))}) + b"."
        ),
        TOO_LARGE,
    ),
    "one text as 200,000 complex numbers": (
        lambda: pickled(memo(b"cbuiltins\ncomplex\n", 100) + memo(LONG_TEXT + b"2\x86", 101) + repeated(b"", b"hdheR")),
        "not made of numbers",
    ),
    "one long name of 200,000 classes": (
        lambda: pickled(memo(body("m"), 100) + memo(body("C" * 1000), 101) + repeated(b"", b"hdhe\x93")), TOO_LARGE
    ),
    "one long wide name of 200,000 classes": (
        lambda: pickled(memo(body("m"), 100) + memo(body("😀" * 1000), 101) + repeated(b"", b"hdhe\x93")), TOO_LARGE
    ),
    "one wide text as part of 200,000 devices": (
        lambda: torch_zip(
            b"\x80\x02" + body({"w": raw(memo(b"ctorch\ndevice\n", 100) + memo(body("😀" * 1000) + b"\x85", 101) + repeated(b"", b"hdheR"))}) + b"."
        ),
        TOO_LARGE,
    ),
    "one long name of 200,000 functions": (
        lambda: pickled(memo(body("torch.nn"), 100) + memo(body("a" * 990), 101) + repeated(b"", b"hdhe\x93")), TOO_LARGE
    ),
    "one long name of 100,000 objects": (
        lambda: pickled(memo(body("m") + body("C" * 1000) + b"\x93", 100) + repeated(b"", b"hd)R", 100_000)), "read m.CCC"
    ),
    "arrays of 32 axes": (
        lambda: pickled(
            memo(b"cnumpy._core.numeric\n_frombuffer\n", 100)
            + memo(body((b"", Call("numpy", "dtype", ("u1",)), (0,) * 32, "C")), 101)
            + repeated(b"", b"hdheR")
        ),
        TOO_LARGE,
    ),
    "one list copied 200,000 times": (
        lambda: pickled(memo(b"cbuiltins\nlist\n", 100) + memo(b"](" + b"N" * 100_000 + b"e\x85", 101) + repeated(b"", b"hdheR")),
        TOO_LARGE,
    ),
    "one state of 200,000 namespaces": (
        lambda: pickled(
            memo(b"cargparse\nNamespace\n", 100)
            + memo(b"}(" + b"".join(body(f"{n}") + b"N" for n in range(10_000)) + b"u", 101)
            + repeated(b"", b"hd)Rheb")
        ),
        TOO_LARGE,
    ),
    "200,000 calls with 100,000 arguments": (
        lambda: pickled(memo(b"cbuiltins\nlist\n", 100) + memo(b"(" + b"N" * 100_000 + b"t", 101) + repeated(b"", b"hdheR")),
        "very many arguments",
    ),
    "a long key of many values": (
        lambda: pickled(memo(LONG_TEXT, 100) + b"}(hd" + repeated(b"", ARRAY, 3_000) + b"u"), "read .*key is a str, or long"
    ),
    "long joined keys of casts": (
        lambda: pickled(
            b"".join(b"}" + body(name) for name in MANY) + repeated(memo(ARRAY, 100), b"hd", 50_000) + b"s" * len(MANY)
        ),
        TOO_LARGE,
    ),
    "long joined keys of modules": (
        lambda: torch_zip(deep_module(MANY, {f"{n}": raw(ARRAY) for n in range(3_000)})), TOO_LARGE
    ),
    "long wide joined keys of modules": (
        lambda: torch_zip(deep_module(["😀" * 1000] * 30, {f"{n}": raw(ARRAY) for n in range(3_000)})), TOO_LARGE
    ),
    "long wide joined keys of casts": (
        lambda: dumps(nested(["😀" * 1000] * 95, raw(repeated(memo(ARRAY, 100), b"hd", 5_000)))), TOO_LARGE
    ),
    "modules that hold each child twice": (lambda: torch_zip(twice_held_children()), TOO_LARGE),
    "a big-endian storage of many tensors": (big_endian_storage, TOO_LARGE),
    # what is announced is not what comes
    "a zip member that inflates to more": (lambda: understated("data/0"), "another size than it should"),
    "a zip pickle that inflates to more": (lambda: understated("data.pkl"), "another size than it should"),
    "a zip byte order that inflates to more": (lambda: understated("byteorder"), "another size than it should"),
    # many small objects
    "50,000 members of a zip file": (many_members, "read"),
    "members of a zip file without content": (bare_members, "without <name>/data.pkl"),
    "integer keys that collide": (lambda: pickled(colliding_integers()), TOO_LARGE),
    "4.9 million dictionaries": (lambda: pickled(b"(" + b"}" * 4_900_000 + b"l"), TOO_LARGE),
    "a million sets": (lambda: pickled(b"(" + b"\x8f" * 1_000_000 + b"l"), TOO_LARGE),
    "a million marks": (lambda: pickled(b"(" * 1_000_000), TOO_LARGE),
    "a million entries of the memo": (lambda: pickled(b"N" + b"\x94" * 1_000_000), TOO_LARGE),
    "a million tuples in tuples": (lambda: pickled(b")" + b"\x85" * 1_000_000), TOO_LARGE),
    "a million stand-ins": (lambda: pickled(memo(b"cm\nC\n", 100) + repeated(b"", b"hd)R", 1_000_000)), TOO_LARGE),
    "a million arrays": (lambda: pickled(memo(b"cnumpy\nndarray\n", 100) + repeated(b"", b"hd)R", 1_000_000)), TOO_LARGE),
    "300,000 classes": (lambda: pickled(b"(" + b"".join(b"cm\nC%d\n)R" % n for n in range(300_000)) + b"l"), TOO_LARGE),
    "wide texts": (lambda: pickled(b"(" + (b"X" + struct.pack("<I", 1004) + b"a" * 1000 + "😀".encode()) * 20_000 + b"l"), "read"),
    "lists in the header of safetensors": (
        lambda: safetensors(b'{"__metadata__":{"a":[' + b"[]," * 3_000_000 + b"[]]}}"), TOO_LARGE
    ),
    "numbers in the header of safetensors": (
        lambda: safetensors(json.dumps({"a": {"dtype": "F32", "shape": [10**4000], "data_offsets": [0, 0]}}).encode()), "shape"
    ),
    "a long name of safetensors": (
        lambda: safetensors(json.dumps({"backbone." * 100_000: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode()),
        "name of 900,000 characters",
    ),
    "empty tensors of safetensors": (
        lambda: safetensors(
            json.dumps({f"{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(50_000)}).encode()
        ),
        "read",
    ),
}  # fmt: skip


class LimitedReader:
    """Reads files one after the other, each in a process within the memory that is promised for its size."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def outcome(self, path: Path) -> str:
        """Size, peak memory, seconds, and what reading gave or said."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        outcome = self._process.stdout.readline()
        assert not outcome.startswith("end"), f"the process was ended: {outcome}"
        assert self._process.stdout.readline() == "end 0\n"
        return outcome.strip()


@contextmanager
def limited_reader() -> Iterator[LimitedReader]:
    """A `LimitedReader`, which ends with the block."""
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        cwd=Path(__file__).parents[2],
        env={"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": "."},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield LimitedReader(process)
        process.stdin.close()  # type: ignore[union-attr]
