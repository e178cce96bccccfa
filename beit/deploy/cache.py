"""ONNX graphs of networks, made once per weights, configuration, code and versions, in the cache folder of the weights."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import types
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from beit.cpu import free_memory
from beit.deploy.graph import write_int8, write_onnx
from beit.deploy.network import OUTPUTS, ExportedNetwork, fixed_pools
from beit.deploy.onnx_builder import numpy_type
from beit.files import sha256_of_arrays, write_text
from beit.models.load import share_memory
from beit.text_files import read_json
from beit.zoo.download import cache_folder

_GRAPH_FILES, _INT8_FILES = (".onnx", ".bin"), (".int8.onnx",)
_KEPT = 6
"""Graphs that stay in the cache, those used last; each is as large as its weights."""
_CODE = ("beit.py", "layers", "models", "deploy")
"""Files and folders of the package whose code decides what a graph holds."""
_PLACES, _FILES = "places of the weights", "files"
"""Entries of a record beside the differences of the engines. Files: extension -> size and time of the last change."""


class CachedGraph:
    """The ONNX file of one output of a network for normalized images, written if the cache does not have it.

    Args:
        model: the network, in evaluation mode.
        output: a key of `beit.deploy.network.OUTPUTS`.
        size: (height, width) of the images, pixels.
        log: called with a line if files were changed, cut or removed since they were written; the graph is written anew.

    Raises:
        ValueError: the graph cannot be written as ONNX.
        OSError: the cache folder cannot be written.
    """

    def __init__(
        self, model: nn.Layer, output: str, size: tuple[int, int], log: Callable[[str], None]
    ) -> None:
        if find_spec("onnx") is None:
            raise ValueError('onnx is not installed: pip install "beit-paddle[onnx]"')
        folder = cache_folder() / "graphs"
        folder.mkdir(parents=True, exist_ok=True)
        self.target = folder / _digest(model, output, size)
        if not self.is_intact():
            if self._record.is_file():
                log(
                    f"{self.target}.* were changed or removed since they were written: the graph is made anew"
                )
            with fixed_pools(model):
                network = ExportedNetwork(model, output, size=size)
                write_onnx(network, self.target, OUTPUTS[output], separate_weights=True)
            places = _places(self.target.with_suffix(".onnx"), model)
            self._write_record({_PLACES: places, _FILES: self._states(_GRAPH_FILES)})
            _remove_old(folder)
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            os.utime(self._record)  # the graphs used last are kept

    def is_intact(self, suffixes: Sequence[str] = _GRAPH_FILES) -> bool:
        """Whether the files with these extensions are those that were written, by size and time of the last change.

        Digests of them would take longer than to load a graph.
        """
        stated = self._read_record().get(_FILES, {})
        return self._states(suffixes) == {suffix: stated.get(suffix) for suffix in suffixes}

    def add_int8(self) -> None:
        """Write the graph in 8 bits for onnxruntime (`beit.deploy.graph.write_int8`) if the cache does not have it.

        Raises:
            ValueError: a package that quantizes is not installed.
        """
        if not self.is_intact(_INT8_FILES):
            write_int8(self.target)
            record = self._read_record()
            self._write_record(record | {_FILES: record[_FILES] | self._states(_INT8_FILES)})

    def map_weights(self, model: nn.Layer) -> None:
        """Let the weights of the network be those of the graph's file, mapped into memory, and free their own memory.

        They have equal values. The system reads the pages that are used, and drops them when memory is short; pages that
        are written to become copies.
        """
        places = self._read_record().get(_PLACES, {})
        data = np.memmap(self.target.with_suffix(".bin"), np.uint8, mode="c")
        for name, tensor in model.state_dict().items():
            if name in places:
                part = data[places[name] : places[name] + tensor.size * tensor.element_size()]
                share_memory(tensor, part.view(numpy_type(tensor.dtype)).reshape(tensor.shape))
        free_memory()

    def difference(self, engine: str) -> float | None:
        """The recorded difference of an engine (`beit.deploy.engines.describe`) from the model; None if there is none."""
        return self._read_record().get(engine)

    def record(self, engine: str, difference: float) -> None:
        """Record the difference of an engine from the model."""
        self._write_record(self._read_record() | {engine: difference})

    @property
    def _record(self) -> Path:
        return self.target.with_suffix(".json")

    def _states(self, suffixes: Iterable[str]) -> dict[str, list[int]]:
        """Size in bytes and time of the last change in nanoseconds of the files with these extensions that exist."""
        found = {}
        for suffix in suffixes:
            with contextlib.suppress(FileNotFoundError):
                state = self.target.with_suffix(suffix).stat()
                found[suffix] = [state.st_size, state.st_mtime_ns]
        return found

    def _read_record(self) -> dict[str, Any]:
        try:
            return read_json(self._record)
        except (FileNotFoundError, ValueError):  # a damaged record says nothing: the graph is written anew
            return {}

    def _write_record(self, record: dict[str, Any]) -> None:
        write_text(self._record, json.dumps(record, indent=2) + "\n")


def _places(file: Path, model: nn.Layer) -> dict[str, int]:
    """Where the weights of a network start in the data file of its graph: names in `state_dict` -> bytes."""
    import onnx

    offsets = {
        tensor.name: int(entry.value)
        for tensor in onnx.load(str(file), load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "offset"
    }
    state = model.state_dict()
    return {name: offsets[tensor.name] for name, tensor in state.items() if tensor.name in offsets}


def _digest(model: nn.Layer, output: str, size: tuple[int, int]) -> str:
    """SHA-256 of all that decides what the graph computes."""
    digest = hashlib.sha256()
    versions = [f"{name} {version(name)}" for name in ("onnx", "numpy")]
    digest.update("\n".join([output, str(size), f"paddle {paddle.__version__}", *versions]).encode())
    for file in sorted(_code_files()):
        digest.update(file.read_bytes())
    for name, layer in model.named_sublayers(include_self=True):
        digest.update(f"{name} {type(layer).__qualname__} {_settings(layer)}\n".encode())
    # One after the other: `numpy` copies.
    weights = ((name, tensor.numpy()) for name, tensor in model.state_dict().items())
    digest.update(sha256_of_arrays(weights).encode())
    return digest.hexdigest()


def _settings(layer: nn.Layer) -> list[tuple[str, str]]:
    """The plain attributes of a layer: sizes, factors, epsilons, names of functions."""
    kinds = (bool, int, float, str, tuple, list, types.FunctionType, types.BuiltinFunctionType)
    return sorted(
        (name, getattr(value, "__qualname__", repr(value)))
        for name, value in vars(layer).items()
        # `_full_name` counts the layers of the process.
        if name not in ("_full_name", "training") and isinstance(value, kinds)
    )


def _code_files() -> list[Path]:
    package = Path(__file__).parents[1]
    roots = [package / name for name in _CODE]
    return [file for root in roots for file in ([root] if root.is_file() else root.rglob("*.py"))]


def _remove_old(folder: Path) -> None:
    """Remove all but the `_KEPT` graphs that were used last, with their other files."""
    graphs = sorted(folder.glob("*.bin"), key=_last_use, reverse=True)
    for file in graphs[_KEPT:]:
        for path in folder.glob(f"{file.stem}.*"):
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                path.unlink()


def _last_use(weights: Path) -> float:
    """Time of the last change of the record of a graph, or of its weights while the record is not written."""
    for file in (weights.with_suffix(".json"), weights):
        with contextlib.suppress(FileNotFoundError):
            return file.stat().st_mtime
    return 0.0
