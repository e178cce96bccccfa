"""Walks over folders: every real folder once, and an error where a folder cannot be read."""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from beit.data.images import UNREAD

_SHOWN = 3  # files or folders that a note names


@dataclass
class FoundFiles:
    """The result of a walk.

    Args:
        names: of the files, relative to the folder, sorted; parts are separated by `/`.
        left_out: for each other ending, in lower case, the number of files and the name of one of them.
        repeated: links that were not followed because the walk contains their targets without them.
    """

    names: list[str] = field(default_factory=list)
    left_out: dict[str, tuple[int, str]] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)

    def leave_out(self, ending: str, name: str) -> None:
        """Count a file whose ending is not that of an image."""
        count, example = self.left_out.get(ending, (0, name))
        self.left_out[ending] = count + 1, example

    def notes(self, folder: Path) -> tuple[str, ...]:
        """Sentences about what the walk through `folder` left out; empty if that is nothing."""
        notes = []
        others = {ending: found for ending, found in self.left_out.items() if ending not in UNREAD}
        if others:
            count = sum(number for number, _ in others.values())
            endings = ", ".join(
                f"{number} {ending or 'without an ending'} ({example})"
                for ending, (number, example) in sorted(others.items())
            )
            notes.append(f"{folder}: {count} file(s) left out, not an image by their ending: {endings}")
        for ending in sorted(self.left_out.keys() & UNREAD.keys()):
            count, example = self.left_out[ending]
            notes.append(
                f"{folder}: {count} {ending} image(s) left out ({example}), which are not decoded here: {UNREAD[ending]}"
            )
        if self.repeated:
            notes.append(
                f"{folder}: {len(self.repeated)} link(s) not followed, they would repeat images of the same folder: "
                + shortened_list(self.repeated)
            )
        return tuple(notes)


def walk_files(folder: Path, endings: frozenset[str]) -> FoundFiles:
    """Find the files with one of `endings` in a folder and its sub-folders, at any depth.

    Links are followed, but every real folder is read once and every real file is found once: a link to a folder or a
    file of the walk, or to a folder above it, adds nothing. Where several links lead to one folder, the link nearest to
    `folder` counts. Hidden files and folders (`.name`) are ignored.

    A broken link and a special file with one of the endings are found like files, so that reading them is an error.

    Args:
        folder: where the walk starts.
        endings: in lower case, such as `.jpg`.

    Raises:
        OSError: a folder or an entry cannot be read, or a link without one of the endings is broken.
    """
    return _Walk(folder, endings).run()


def shortened_list(names: list[str]) -> str:
    """The first names, and the number of further ones."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class _Walk:
    def __init__(self, folder: Path, endings: frozenset[str]) -> None:
        self._folder, self._endings = folder, endings
        self._root = os.path.realpath(folder)
        self._found = FoundFiles()
        self._visited: set[str] = set()  # real paths
        self._linked_files: dict[str, tuple[str, str]] = {}  # name to real folder and link text
        # Links to folders wait until all real folders are read, those nearest to the root first: (depth, name, target).
        self._linked: list[tuple[int, str, str]] = []

    def run(self) -> FoundFiles:
        self._read_tree("", self._root)
        while self._linked:
            _, name, target = heapq.heappop(self._linked)
            if target in self._visited or _contains(target, self._root):
                self._found.repeated.append(name)
            else:
                self._read_tree(name, target)
        self._drop_repeated_files()
        self._found.names.sort()
        return self._found

    def _read_tree(self, name: str, real: str) -> None:
        """Read a real folder and the real folders below it."""
        stack = [(name, real)]
        while stack:
            name, real = stack.pop()
            if real in self._visited:
                self._found.repeated.append(name)
                continue
            self._visited.add(real)
            try:
                with os.scandir(real) as entries:
                    for entry in entries:
                        if not entry.name.startswith("."):
                            self._read_entry(
                                entry, f"{name}/{entry.name}" if name else entry.name, real, stack
                            )
            except OSError as error:
                self._fail(name, error)

    def _read_entry(
        self, entry: os.DirEntry[str], name: str, real: str, stack: list[tuple[str, str]]
    ) -> None:
        ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
        is_link, is_image = entry.is_symlink(), ending in self._endings
        if entry.is_dir():
            if is_link:
                target = os.path.realpath(f"{real}/{entry.name}")
                heapq.heappush(self._linked, (name.count("/"), name, target))
            else:
                stack.append((name, f"{real.rstrip('/')}/{entry.name}"))
        elif is_image:
            self._found.names.append(name)
            if is_link and entry.is_file():
                self._linked_files[name] = real, str(Path(entry.path).readlink())
        elif is_link and not os.path.exists(entry.path):  # noqa: PTH110
            raise FileNotFoundError(
                f"{self._folder / name} is a broken link to {Path(entry.path).readlink()}; restore its target "
                "or remove it"
            )
        else:
            self._found.leave_out(ending, name)

    def _drop_repeated_files(self) -> None:
        """Leave out links to files of this walk."""
        real_folders: dict[str, str] = {}
        repeated = set()
        for name, (real, text) in self._linked_files.items():
            parent, file = os.path.split(os.path.join(real, text))  # noqa: PTH118
            if parent not in real_folders:
                real_folders[parent] = os.path.realpath(parent)
            ending = os.path.splitext(file)[1].lower()  # noqa: PTH122
            if real_folders[parent] in self._visited and ending in self._endings and file[0] != ".":
                repeated.add(name)
        self._found.names = [name for name in self._found.names if name not in repeated]
        self._found.repeated += sorted(repeated)

    def _fail(self, name: str, error: OSError) -> NoReturn:
        if error.errno is None:  # has its message already
            raise error
        raise type(error)(
            f"{error.filename or self._folder / name} cannot be read: {error.strerror}. Its images would be missing without notice; make "
            "it readable, or move it out of the data"
        ) from error


def _contains(folder: str, path: str) -> bool:
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")
