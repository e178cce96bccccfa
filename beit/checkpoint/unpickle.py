"""A pickle reader that can only build data: it imports nothing and calls nothing.

Python's own unpickler calls whatever the file names. This one runs the same byte code, but a global stays a
name (`Global`) and a call stays a note of what would have been called (`Record`); `rebuild.py` gives meaning
to the few notes that checkpoints need. A name outside the caller's list is refused where it appears.

Source: the opcodes are those of CPython's `pickletools`, protocols 0 to 5, less the ones that no checkpoint
uses (extension registry, out-of-band buffers).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from beit.checkpoint.errors import CheckpointError, UnsafeFileError
from beit.checkpoint.raw_bytes import read_raw

# A state dict takes some twenty opcodes a tensor; a training file with optimizer and history stays far below
# 1e6.
MAX_OPCODES = 5_000_000
MAX_INTEGER_BYTES = 1024
BIG_BYTES = 4096  # byte strings from here on are read straight into an array that tensors can then view


class Global(NamedTuple):
    """The name of a class or function in a pickle, as data."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """A call that a pickle asks for and that was not made: of what, with what, what was put into the result."""

    callee: Global
    args: tuple[Any, ...]
    state: Any = None
    listed: list[Any] = field(default_factory=list)
    mapped: list[tuple[Any, Any]] = field(default_factory=list)


class _Mark:
    pass


_MARK = _Mark()


class Unpickler:
    """Reads one pickle from a binary file, starting where the file stands and stopping behind the STOP
    opcode.

    Args: file; `size` - bytes that the file holds in all, so that no byte string can claim more; `allowed` -
    the globals that may be named; `persistent` - turns a persistent id (torch's storages) into a value, None
    refuses them.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        size: int,
        allowed: Collection[Global],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file = file
        self._size = size
        self._allowed = allowed
        self._persistent = persistent
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The pickled value, with `Global` and `Record` in place of code.

        Raises: `UnsafeFileError` at a global outside the list; `CheckpointError` for what is no sound pickle.
        Garbled byte code can also surface as IndexError, KeyError, TypeError or ValueError: `files.read`
        converts these.
        """
        read, steps = self._file.read, _STEPS
        for _ in range(MAX_OPCODES):
            opcode = read(1)
            if opcode == b".":
                return self._pop()
            if opcode == b"":
                raise EOFError("the pickle stops before its end mark")
            step = steps.get(opcode[0])
            if step is None:
                raise CheckpointError(f"pickle opcode {opcode!r} is not one that checkpoints use")
            step(self)
        raise CheckpointError(f"more than {MAX_OPCODES:,} pickle opcodes, far more than any checkpoint")

    # Reading

    def _take(self, count: int) -> bytes:
        if count < 0 or (count > BIG_BYTES and count > self._size - self._file.tell()):
            raise EOFError(f"a value of {count:,} bytes is announced")
        data = self._file.read(count)
        if len(data) != count:
            raise EOFError("the pickle stops in the middle of a value")
        return data

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._take(layout.size))[0]

    def _line(self, encoding: str = "utf-8") -> str:
        line = self._file.readline(BIG_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError("the pickle stops in the middle of a name")
        return line[:-1].decode(encoding)

    def _bytes(self, count: int) -> bytes | np.ndarray:
        return self._take(count) if count < BIG_BYTES else read_raw(self._file, count, self._size)

    # The stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        value = self._stack.pop()
        if value is _MARK:
            raise CheckpointError("a pickle mark stands where a value belongs")
        return value

    def _top(self) -> Any:
        return self._stack[-1]

    def _pop_to_mark(self) -> list[Any]:
        stack = self._stack
        for index in range(len(stack) - 1, -1, -1):
            if stack[index] is _MARK:
                values = stack[index + 1 :]
                del stack[index:]
                return values
        raise CheckpointError("a pickle mark is missing")

    # Filling containers

    def _append(self, values: list[Any]) -> None:
        target = self._top()
        if isinstance(target, Record):
            target.listed += values
        elif isinstance(target, list):
            target += values
        else:
            raise CheckpointError(f"a pickle appends to a {type(target).__name__}")

    def _set_items(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, Record):
            raise CheckpointError(f"a pickle stores items in a {type(target).__name__}")
        target.mapped += zip(values[::2], values[1::2], strict=True)

    # Naming and calling

    def _global(self, module: Any, name: Any) -> None:
        found = Global(module, name)
        if found not in self._allowed:
            raise UnsafeFileError(
                f"refused: it names {found}, which no known checkpoint needs and which could run code when "
                "loaded; nothing was run. Get the weights from their publisher, best as .safetensors, or have the "
                "program that made the file save the plain state dict"
            )
        self._push(found)

    def _record(self, callee: Any, args: Any) -> None:
        if not isinstance(callee, Global) or not isinstance(args, tuple):
            raise CheckpointError("a pickle calls something that is not a named class or function")
        self._push(Record(callee, args))

    def _build(self, state: Any) -> None:
        target = self._top()
        if not isinstance(target, Record):
            raise CheckpointError(f"a pickle sets the state of a {type(target).__name__}")
        target.state = state

    def _call(self) -> None:
        args = self._pop()
        self._record(self._pop(), args)

    def _call_with_keywords(self) -> None:
        keywords, args = self._pop(), self._pop()
        if keywords:
            raise CheckpointError("a pickle passes keyword arguments, which no checkpoint needs")
        self._record(self._pop(), args)

    def _call_marked(self) -> None:
        values = self._pop_to_mark()
        self._record(values[0], tuple(values[1:]))

    def _instance(self) -> None:
        self._global(self._line(), self._line())
        callee = self._pop()
        self._record(callee, tuple(self._pop_to_mark()))

    def _named_on_stack(self) -> None:
        name = self._pop()
        self._global(self._pop(), name)

    def _persistent_id(self, value: Any) -> None:
        if self._persistent is None:
            raise CheckpointError("the pickle refers to data outside of itself")
        self._push(self._persistent(value))

    def _memoize(self, index: int) -> None:
        self._memo[index] = self._top()

    def _integer(self, count: int) -> None:
        if not 0 <= count <= MAX_INTEGER_BYTES:
            raise CheckpointError(f"an integer of {count:,} bytes")
        self._push(int.from_bytes(self._take(count), "little", signed=True))

    def _integer_line(self) -> None:
        line = self._line()
        self._push({"00": False, "01": True}[line] if line in ("00", "01") else int(line.removesuffix("L")))

    def _quoted_line(self) -> None:
        line = self._line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
            raise CheckpointError("a pickled string without quotes")
        self._push(line[1:-1])


_U1, _U2, _I4, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<i", "<I", "<Q"))
_FLOAT = struct.Struct(">d")
_Step = Callable[[Unpickler], Any]


def _text(layout: struct.Struct) -> _Step:
    # Surrogates are what Python 3 writes for bytes that were no text; they pass as paddle.load lets them
    # pass.
    return lambda u: u._push(u._take(u._number(layout)).decode("utf-8", "surrogatepass"))


def _old_text(layout: struct.Struct) -> _Step:
    return lambda u: u._push(
        u._take(u._number(layout)).decode("latin-1")
    )  # Python 2's str, as paddle.load reads it


def _binary(layout: struct.Struct) -> _Step:
    return lambda u: u._push(u._bytes(u._number(layout)))


def _constant(value: Any) -> _Step:
    return lambda u: u._push(value)


def _number_of(layout: struct.Struct) -> _Step:
    return lambda u: u._push(u._number(layout))


def _last_as_tuple(count: int) -> _Step:
    def step(u: Unpickler) -> None:
        values = [u._pop() for _ in range(count)]
        u._push(tuple(reversed(values)))

    return step


def _append_one(u: Unpickler) -> None:
    u._append([u._pop()])


def _set_one(u: Unpickler) -> None:
    value = u._pop()
    u._set_items([u._pop(), value])


def _as_dict(u: Unpickler) -> None:
    values = u._pop_to_mark()
    u._push(Record(_DICT, ()))
    u._set_items(values)


# Dictionaries and sets are notes as well: only who knows the bounds of a key may hash it (see `rebuild.py`).
_DICT, _SET, _FROZENSET = (Global("builtins", name) for name in ("dict", "set", "frozenset"))

_STEPS: dict[int, _Step] = {
    # framing
    0x80: lambda u: u._take(1),  # PROTO
    0x95: lambda u: u._take(8),  # FRAME
    # constants and numbers
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("I"): lambda u: u._integer_line(),
    ord("L"): lambda u: u._integer_line(),
    ord("J"): _number_of(_I4),
    ord("K"): _number_of(_U1),
    ord("M"): _number_of(_U2),
    0x8A: lambda u: u._integer(u._number(_U1)),
    0x8B: lambda u: u._integer(u._number(_I4)),
    ord("F"): lambda u: u._push(float(u._line())),
    ord("G"): _number_of(_FLOAT),
    # text and bytes
    ord("S"): lambda u: u._quoted_line(),
    ord("V"): lambda u: u._push(u._line("raw-unicode-escape")),
    0x8C: _text(_U1),
    ord("X"): _text(_U4),
    0x8D: _text(_U8),
    ord("U"): _old_text(_U1),
    ord("T"): _old_text(_I4),
    ord("C"): _binary(_U1),
    ord("B"): _binary(_U4),
    0x8E: _binary(_U8),
    0x96: _binary(_U8),  # BYTEARRAY8
    # containers
    ord("("): _constant(_MARK),
    ord(")"): _constant(()),
    0x85: _last_as_tuple(1),
    0x86: _last_as_tuple(2),
    0x87: _last_as_tuple(3),
    ord("t"): lambda u: u._push(tuple(u._pop_to_mark())),
    ord("]"): lambda u: u._push([]),
    ord("l"): lambda u: u._push(u._pop_to_mark()),
    ord("a"): _append_one,
    ord("e"): lambda u: u._append(u._pop_to_mark()),
    ord("}"): lambda u: u._push(Record(_DICT, ())),
    ord("d"): _as_dict,
    ord("s"): _set_one,
    ord("u"): lambda u: u._set_items(u._pop_to_mark()),
    0x8F: lambda u: u._push(Record(_SET, ())),
    0x90: lambda u: u._append(u._pop_to_mark()),
    0x91: lambda u: u._push(Record(_FROZENSET, (u._pop_to_mark(),))),
    # stack and memo
    ord("0"): lambda u: u._stack.pop(),
    ord("1"): lambda u: u._pop_to_mark(),
    ord("2"): lambda u: u._push(u._top()),
    ord("p"): lambda u: u._memoize(int(u._line())),
    ord("q"): lambda u: u._memoize(u._number(_U1)),
    ord("r"): lambda u: u._memoize(u._number(_U4)),
    0x94: lambda u: u._memoize(len(u._memo)),
    ord("g"): lambda u: u._push(u._memo[int(u._line())]),
    ord("h"): lambda u: u._push(u._memo[u._number(_U1)]),
    ord("j"): lambda u: u._push(u._memo[u._number(_U4)]),
    # names and calls, none of which is imported or made
    ord("c"): lambda u: u._global(u._line(), u._line()),
    0x93: lambda u: u._named_on_stack(),
    ord("R"): lambda u: u._call(),
    0x81: lambda u: u._call(),
    0x92: lambda u: u._call_with_keywords(),
    ord("o"): lambda u: u._call_marked(),
    ord("i"): lambda u: u._instance(),
    ord("b"): lambda u: u._build(u._pop()),
    ord("P"): lambda u: u._persistent_id(u._line()),
    ord("Q"): lambda u: u._persistent_id(u._pop()),
}
