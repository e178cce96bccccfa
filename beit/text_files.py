"""Small text files beside weights and data, read without trusting them: limits of size, UTF-8, JSON and YAML."""

from __future__ import annotations

import codecs
import json
import math
import stat
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from beit.printable import printable

MAX_BYTES = 16 << 20
"""Largest text file that is read, unless the caller passes another limit. The largest published one, a list of 21,841
classes with their descriptions, has 4 MB."""
MAX_JSON_MARKS = 1_000_000
"""Largest number of brackets, colons and commas in a JSON text: one of them precedes each value. The list above has
300,000."""
MAX_YAML_CHARACTERS = 1 << 16
"""Largest config in YAML, which PyYAML reads at 40 to 120 KB/s. The config of a run, with every key, has 4 KB."""
_SHOWN = 80  # characters of a key or number in a message


def read_bytes(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The content of a file.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is a folder, a named pipe or a device (reading these could wait for ever), or it is too large.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a named pipe, socket or device"
        raise ValueError(f"{path} is {kind}, expected a file")
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path} is larger than {max_bytes / 1e6:.1f} MB, the limit for a file of its kind")
    return content


def read_utf8(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes of a text file without its byte order mark, checked to be UTF-8.

    Raises:
        FileNotFoundError, ValueError, OSError: as `read_bytes`, and for another encoding.
    """
    content = read_bytes(path, max_bytes).removeprefix(codecs.BOM_UTF8)
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 4]
        encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "GBK"
        raise ValueError(
            f"{path}:{line}: not UTF-8 (bytes {found!r} at {error.start}); save the file as UTF-8, "
            f"e.g. with `iconv -f {encoding} -t UTF-8`"
        ) from error
    return content


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file, without its byte order mark. Raises as `read_utf8`."""
    return read_utf8(path, max_bytes).decode()


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError, ValueError, OSError: as `read_utf8`, or it is not a JSON object (see `parse_json`).
    """
    text = read_text(path)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {printable(str(error))}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object {{…}}")
    return content


def parse_json(text: str) -> Any:
    """The value of a JSON text. Parsing takes at most 16 times its size and 64 MiB of memory.

    Raises:
        ValueError: it is invalid, has too many values, is nested too deeply, repeats a key, or has a number that is not
            finite.
    """
    if sum(map(text.count, "{[:,")) > MAX_JSON_MARKS:
        raise ValueError(f"more than {MAX_JSON_MARKS:,} values")

    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
            raise ValueError(f"key {_shown(twice)} is given twice")
        return found

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(f"{_shown(digits)} is no number, or too large")
        return int(digits) if digits.lstrip("-").isdigit() else value

    try:
        return json.loads(
            text,
            object_pairs_hook=without_repeats,
            parse_int=number,
            parse_float=number,
            parse_constant=number,
        )
    except RecursionError as error:
        raise ValueError(str(error)) from error


def load_yaml(text: str) -> Any:
    """The value of a YAML text, built of plain Python values only.

    Raises:
        ValueError: it is invalid, too long or nested too deeply, repeats a key or has an alias.
    """
    if len(text) > MAX_YAML_CHARACTERS:
        raise ValueError(f"{len(text)} characters, more than the {MAX_YAML_CHARACTERS} of a config")
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: an invalid date or number
        raise ValueError(printable(" ".join(str(error).split()))) from None
    except (LookupError, TypeError, AttributeError):
        raise ValueError("a value does not fit its tag, as in `!!int x`") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML loader (it builds no Python objects) that refuses duplicate keys and aliases.

    A few nested aliases expand to gigabytes.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.constructor.ConstructorError(
                None,
                None,
                f"*{event.anchor}: aliases are not supported, write the value itself",
                event.start_mark,
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict | set):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _shown(text: str) -> str:
    return printable(text[:_SHOWN]) + ("…" if len(text) > _SHOWN else "")
