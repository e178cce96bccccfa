"""Where the config files are: the path a user gives, or a shipped config by the end of its path."""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path

from beit.files import expand_path

_NOT_WHOLE = {"_base_", "beit"}
"""Folders of `configs` without configs of this package: parts of others, and PASSL's files (`beit.passl`)."""


def config_path(name: str | Path) -> Path:
    """Path of a config file: as given, or that of the shipped config whose path ends with the name.

    mmpretrain's paths are such names: `configs/beit/benchmarks/beit-base-p16_8xb64_in1k.py`. It uses some file names
    twice, for BEiT and for BEiT v2; without their folder they mean BEiT v2, and a warning says so.

    Raises:
        FileNotFoundError: neither exists; the nearest shipped names are given.
    """
    path = Path(expand_path(str(name)))
    if path.is_file():
        return path
    if path.is_dir():
        raise FileNotFoundError(f"config {path} is a folder; name a YAML file in it")
    shipped = {
        file.relative_to(config_folder()).with_suffix("").parts: file
        for file in sorted(config_folder().rglob("*.yaml"))
        if file.relative_to(config_folder()).parts[0] not in _NOT_WHOLE
    }
    end = path.with_suffix("") if path.suffix in (".yaml", ".py") else path
    parts = end.parts[1:] if end.parts[:1] == ("configs",) else end.parts
    found = [own for own in shipped if parts and own[-len(parts) :] == parts]
    if len(found) > 1:
        both, used = " and ".join("/".join(own) for own in found), "/".join(found[-1])
        warnings.warn(f"two configs are called {name}: {both}. {used} is used; name its folder", stacklevel=2)
    if found:
        return shipped[found[-1]]
    near = difflib.get_close_matches(path.stem, [own[-1] for own in shipped], n=3, cutoff=0.4)
    hint = f"; shipped configs of that kind: {', '.join(dict.fromkeys(near))}" if near else ""
    raise FileNotFoundError(f"config file {path} does not exist{hint}")


def is_shipped(path: str) -> bool:
    """Whether a config file is one that comes with the package."""
    return Path(path).is_relative_to(config_folder().resolve())


def config_folder() -> Path:
    """`configs` inside the installed package, or beside it in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "configs"
