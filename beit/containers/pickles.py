"""Read pickles as plain data: nothing is imported, and nothing is called but the constructors of a table.

Python's unpickler imports and calls what the file names, and hashes keys of any type, which a deeply nested tuple turns
into a crash. This reader runs the same opcodes; a call of a name in its table goes to a function of this package, an object
of any other class becomes an empty `StandIn`, and names of functions that could run code are refused (`pickle_globals`).

Memory is bounded by `Budget`, time by the size of the file: each opcode and each entry that is copied is charged. Only
short texts and numbers are hashed, and no value of the file is formatted for a message.

Source: the opcodes are those of CPython's `pickletools`, protocols 0 to 5, less those that no checkpoint uses (extension
registry, out-of-band buffers); the design follows torch/_weights_only_unpickler.py.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from beit.containers.arrays import CHARACTER_BYTES, OBJECT_BYTES, Budget, widen_bfloat16
from beit.containers.errors import CheckpointError, shown
from beit.containers.pickle_globals import (
    CONSTRUCTORS,
    Constructor,
    Global,
    Guard,
    StandIn,
    fill_array,
    is_number,
    make_set,
    set_byte_order,
    set_state,
)

MAX_DEPTH = 100
"""Levels of nested containers; more are neither read nor written."""
_MAX_INTEGER_BYTES = 1024
_MAX_LINE = 4096
_MAX_ARGUMENTS = 16  # of the functions in tables of constructors


class Pickled(NamedTuple):
    """Content of a pickle.

    Args:
        value: nested dicts, lists, tuples, sets, numbers, texts and NumPy arrays.
        dtypes_cast: dotted name -> dtype in the file, of arrays that NumPy cannot hold as stored.
        left_out: classes whose objects became stand-ins, and kinds of dictionary entries that were dropped.
        metadata: texts by name, behind the pickle (`paddle_files`).
    """

    value: Any
    dtypes_cast: dict[str, str]
    left_out: tuple[str, ...]
    metadata: Mapping[str, str] = MappingProxyType({})


class Unpickler(Guard):
    """Reads one pickle from a binary file, from its position to the STOP opcode.

    Args:
        file: positioned at the first opcode.
        size: bytes of the file; no text or array can claim more.
        budget: memory that the value may take.
        constructors: functions by the dotted name under which the pickle calls them.
        persistent_load: returns the value of a persistent id (the storages of torch); None refuses them.
        paddle: read (name, array) as the array and uint16 as bfloat16, which is what paddle.save means by them.
    """

    def __init__(
        self,
        file: io.BufferedIOBase,
        size: int,
        budget: Budget,
        constructors: Mapping[str, Constructor] = CONSTRUCTORS,
        persistent_load: Callable[[Any], Any] | None = None,
        paddle: bool = False,
    ) -> None:
        super().__init__(budget)
        self.file, self.size = file, size
        self.constructors, self.persistent_load, self.paddle = constructors, persistent_load, paddle
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stack below each MARK
        self.memo: dict[int, Any] = {}
        self.dtypes_cast: dict[str, str] = {}
        self._float32: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by id: bfloat16 bits, and as float32

    def read(self) -> Pickled:
        """The content of the pickle.

        Raises:
            UnsafeFileError: it names a function that could run code.
            CheckpointError: no sound pickle, nested too deep or inside itself, or too large for the budget. Damaged opcodes
                can also raise IndexError, KeyError, TypeError or ValueError: `checkpoint.files.read` converts these.
        """
        value = self._checked(self.load(), ())
        return Pickled(value, self.dtypes_cast, tuple(map(shown, self.left_out)))

    def load(self) -> Any:
        """The value as pickled: references can lead in circles, and what is small here can be large as a tree."""
        read, charge = self.file.read, self.budget.charge
        while (opcode := read(1)) != b".":
            charge(OBJECT_BYTES)
            if opcode in VALUES:
                value = VALUES[opcode](self)
                self.stack.append(value)
            elif opcode in ACTIONS:
                ACTIONS[opcode](self)
            elif opcode:
                raise CheckpointError(f"pickle opcode {opcode!r} is not one that checkpoints use")
            else:
                raise EOFError("the pickle stops before its end mark")
        return self.stack.pop()

    def _checked(self, item: Any, path: tuple[Any, ...]) -> Any:
        """`item` as a tree of bounded depth, in which each entry is charged as often as it is referred to."""
        self.budget.charge(OBJECT_BYTES)
        if len(path) > MAX_DEPTH:
            raise CheckpointError(
                f"nested deeper than {MAX_DEPTH} levels or without end, as no checkpoint is"
            )
        if isinstance(item, dict):
            for key, entry in item.items():
                item[key] = self._checked(entry, (*path, key))
        elif isinstance(item, list):
            item[:] = [self._checked(entry, (*path, index)) for index, entry in enumerate(item)]
        elif isinstance(item, tuple):
            if self.paddle and len(item) == 2 and type(item[0]) is str and isinstance(item[1], np.ndarray):
                return self._checked(item[1], path)
            return tuple(self._checked(entry, (*path, index)) for index, entry in enumerate(item))
        elif isinstance(item, np.ndarray):
            return self._checked_array(item, path)
        elif isinstance(item, np.dtype):
            return str(item)
        return item

    def _checked_array(self, array: np.ndarray, path: tuple[Any, ...]) -> Any:
        if not is_number(array.dtype):
            return self.stand_in("numpy.ndarray of other values than numbers")
        if self.paddle and array.dtype == np.uint16:
            array = self.float32_of(array)
        if id(array) in self._float32:
            name = ".".join(map(str, path))
            self.budget.charge(CHARACTER_BYTES * len(name))
            self.dtypes_cast[name] = "bfloat16"
        return array

    def float32_of(self, bits: np.ndarray) -> np.ndarray:
        """The values of an array of bfloat16 bits, converted once for each array and listed as cast."""
        if id(bits) not in self._float32:
            self.budget.charge(4 * bits.size)
            wide = widen_bfloat16(bits)
            # Both are kept, so that no later array gets their ids.
            self._float32[id(bits)] = self._float32[id(wide)] = bits, wide
        return self._float32[id(bits)][1]

    # Reading

    def take(self, count: int) -> bytes:
        """The next bytes, read once: an array made of them views them."""
        if count < 0 or (count > _MAX_LINE and count > self.size - self.file.tell()):
            raise EOFError(f"a value of {count:,} bytes is announced")
        self.budget.charge(count)
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError("the pickle stops in the middle of a value")
        return data

    def number(self, layout: str) -> Any:
        """The next number, in a layout of `struct`."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def integer(self, layout: str) -> int:
        """The next integer of any size, after its number of bytes in `layout`."""
        count = self.number(layout)
        if not 0 <= count <= _MAX_INTEGER_BYTES:
            raise CheckpointError(f"an integer of {count:,} bytes")
        return int.from_bytes(self.take(count), "little", signed=True)

    def text(self, layout: str, encoding: str = "utf-8") -> str:
        """The next text, after its number of bytes in `layout`."""
        # Surrogates are what Python 3 writes for bytes that were no text; paddle.load accepts them too.
        text = self.take(self.number(layout)).decode(encoding, "surrogatepass")
        self.budget.charge(sys.getsizeof(text))  # one character can make each of the others take four bytes
        return text

    def line(self, encoding: str = "utf-8") -> str:
        """The next line, without its end."""
        line = self.file.readline(_MAX_LINE)
        if not line.endswith(b"\n"):
            raise EOFError("the pickle stops in the middle of a line")
        return line[:-1].decode(encoding)

    def quoted_line(self) -> str:
        """The next line, which is a text in quotes."""
        line = self.line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in "'\"":
            raise CheckpointError("a pickled text without quotes")
        return line[1:-1]

    def integer_line(self) -> int:
        """The next line, which is an integer, or 00 and 01 for False and True."""
        line = self.line()
        return {"00": False, "01": True}[line] if line in ("00", "01") else int(line.removesuffix("L"))

    # Stack, memo and containers

    def mark(self) -> None:
        """Begin a group of values: they are pushed on an empty stack."""
        self.marked.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        """The values since the last mark; the stack is the one below it again."""
        values, self.stack = self.stack, self.marked.pop()
        return values

    def pop_tuple(self, count: int) -> tuple[Any, ...]:
        """The last `count` values of the stack."""
        return tuple([self.stack.pop() for _ in range(count)][::-1])

    def memoize(self, index: int) -> None:
        """Keep the last value of the stack under a number, for later references."""
        # Picklers count from 0 or 1; chosen integers could collide in the table.
        if not 0 <= index <= 2 * len(self.memo) + 1000:
            raise CheckpointError(
                f"the pickle stores an object under a number far above its {len(self.memo):,} stored objects"
            )
        self.memo[index] = self.stack[-1]

    def append(self, values: list[Any], target: Any) -> None:
        """Add values to a list or set; what a stand-in would hold is dropped."""
        if isinstance(target, list):
            target += values
        elif isinstance(target, set):
            target.update(value for value in values if self.is_key(value, len(target)))
        elif not isinstance(target, StandIn):
            raise CheckpointError(f"a pickle appends to a {type(target).__name__}")

    def set_items(self, values: list[Any], target: Any) -> Any:
        """Add keys and values, which alternate in `values`, to a dictionary."""
        if not isinstance(target, dict):
            raise CheckpointError(f"a pickle stores items in a {type(target).__name__}")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if self.is_key(key, len(target)):
                target[key] = value
        return target

    # Classes, functions and their calls

    def call(self, function: Any, arguments: Any, keywords: Any = None) -> Any:
        """What a call makes: the value of a constructor in the table, or a stand-in."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise CheckpointError("a pickle calls something that is not a named class or function")
        self.budget.charge(OBJECT_BYTES)
        constructor = self.constructors.get(function)
        if constructor is None:
            return self.stand_in(function)
        if keywords or len(arguments) > _MAX_ARGUMENTS:
            raise CheckpointError(f"a call of {shown(function)} with keywords or very many arguments")
        return constructor(self, *arguments)

    def call_values(self, values: list[Any]) -> Any:
        """`call` of the first value with the others as arguments."""
        return self.call(values[0], tuple(values[1:]))

    def load_persistent(self, name: Any) -> Any:
        """The object behind a persistent id."""
        if self.persistent_load is None:
            raise CheckpointError("the pickle refers to data outside of itself")
        return self.persistent_load(name)

    def build(self, state: Any, target: Any) -> None:
        """Set the state of an object."""
        if isinstance(target, np.ndarray) and isinstance(state, tuple):
            fill_array(self, target, *state[-4:])
        elif isinstance(target, np.dtype) and isinstance(state, tuple):
            set_byte_order(target, state)
        elif isinstance(target, StandIn):
            set_state(self, target, state)
        elif not isinstance(target, dict):  # attributes of dictionaries (torch's `_metadata`) are left out
            raise CheckpointError(f"a pickle sets the state of a {type(target).__name__}")


# Opcodes that push a value, and that value.
VALUES: dict[bytes, Callable[[Unpickler], Any]] = {
    # constants and numbers
    b"N": lambda u: None,
    b"\x88": lambda u: True,
    b"\x89": lambda u: False,
    b"I": Unpickler.integer_line,
    b"L": Unpickler.integer_line,
    b"J": lambda u: u.number("<i"),
    b"K": lambda u: u.number("<B"),
    b"M": lambda u: u.number("<H"),
    b"\x8a": lambda u: u.integer("<B"),
    b"\x8b": lambda u: u.integer("<i"),
    b"F": lambda u: float(u.line()),
    b"G": lambda u: u.number(">d"),
    # text and bytes
    b"S": Unpickler.quoted_line,
    b"V": lambda u: u.line("raw-unicode-escape"),
    b"\x8c": lambda u: u.text("<B"),
    b"X": lambda u: u.text("<I"),
    b"\x8d": lambda u: u.text("<Q"),
    b"U": lambda u: u.text("<B", "latin-1"),  # str of Python 2, as paddle.load reads it
    b"T": lambda u: u.text("<i", "latin-1"),
    b"C": lambda u: u.take(u.number("<B")),
    b"B": lambda u: u.take(u.number("<I")),
    b"\x8e": lambda u: u.take(u.number("<Q")),
    b"\x96": lambda u: u.take(u.number("<Q")),  # BYTEARRAY8
    # containers
    b")": lambda u: (),
    b"\x85": lambda u: u.pop_tuple(1),
    b"\x86": lambda u: u.pop_tuple(2),
    b"\x87": lambda u: u.pop_tuple(3),
    b"t": lambda u: tuple(u.pop_to_mark()),
    b"]": lambda u: [],
    b"l": Unpickler.pop_to_mark,
    b"}": lambda u: {},
    b"d": lambda u: u.set_items(u.pop_to_mark(), {}),
    b"\x8f": lambda u: make_set(u),
    b"\x91": lambda u: make_set(u, u.pop_to_mark()),
    # stack and memo
    b"2": lambda u: u.stack[-1],
    b"g": lambda u: u.memo[int(u.line())],
    b"h": lambda u: u.memo[u.number("<B")],
    b"j": lambda u: u.memo[u.number("<I")],
    # names and calls
    b"c": lambda u: u.name(u.line(), u.line()),
    b"\x93": lambda u: u.name(u.stack.pop(-2), u.stack.pop()),
    b"R": lambda u: u.call(u.stack.pop(-2), u.stack.pop()),
    b"\x81": lambda u: u.call(u.stack.pop(-2), u.stack.pop()),
    b"\x92": lambda u: u.call(u.stack.pop(-3), u.stack.pop(-2), u.stack.pop()),
    b"o": lambda u: u.call_values(u.pop_to_mark()),
    b"i": lambda u: u.call(u.name(u.line(), u.line()), tuple(u.pop_to_mark())),
    b"P": lambda u: u.load_persistent(u.line()),
    b"Q": lambda u: u.load_persistent(u.stack.pop()),
}

# The other opcodes.
ACTIONS: dict[bytes, Callable[[Unpickler], Any]] = {
    b"\x80": lambda u: u.take(1),  # PROTO
    b"\x95": lambda u: u.take(8),  # FRAME
    b"(": Unpickler.mark,
    b"0": lambda u: u.stack.pop() if u.stack else u.pop_to_mark(),
    b"1": Unpickler.pop_to_mark,
    b"p": lambda u: u.memoize(int(u.line())),
    b"q": lambda u: u.memoize(u.number("<B")),
    b"r": lambda u: u.memoize(u.number("<I")),
    b"\x94": lambda u: u.memoize(len(u.memo)),
    b"a": lambda u: u.append([u.stack.pop()], u.stack[-1]),
    b"e": lambda u: u.append(u.pop_to_mark(), u.stack[-1]),
    b"\x90": lambda u: u.append(u.pop_to_mark(), u.stack[-1]),
    b"s": lambda u: u.set_items([u.stack.pop(-2), u.stack.pop()], u.stack[-1]),
    b"u": lambda u: u.set_items(u.pop_to_mark(), u.stack[-1]),
    b"b": lambda u: u.build(u.stack.pop(), u.stack[-1]),
}
