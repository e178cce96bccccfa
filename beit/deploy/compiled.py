"""A network run by an engine in place of Paddle, after a comparison on the first images that it is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import paddle
from paddle import nn

from beit.cpu import cores_per_rank, given_threads, split_batch
from beit.deploy.cache import CachedGraph
from beit.deploy.engines import AUTO, ENGINES, check_name, check_precision, describe, fastest_first, preferred
from beit.deploy.parity import TOLERANCES, relative_difference

_MAX_IMAGES = 8  # images compared; more of them find nothing new about a graph
Log = Callable[[str], None]
Function = Callable[[paddle.Tensor], paddle.Tensor]


def log_to_stderr(text: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(text, file=sys.stderr, flush=True)


class CompiledModel:
    """A network of which an engine runs one method; all other attributes are those of the network.

    Images `[B, 3, height, width]` of the network's size go to the engine, in batches of any size. The network itself gets
    images of other sizes (the border windows of small images in segmentation).

    The graph comes from `CachedGraph`. The first images that an engine gets are also given to the network, unless an
    earlier process did so with the same graph and engine; if results differ by more than the precision's share in
    `TOLERANCES` of the network's largest value, the network answers instead (`auto` in float32) or the program ends. One
    line of the log says which engine answers and how far it differs.

    Args:
        model: the network. Its weights must not change any more.
        output: "logits" or "features", computed by `model(…)` and `model.forward_features`.
        size: (height, width) of the images, pixels.
        engine: a key of `ENGINES`, or "auto": on a CPU the first of `preferred`, on a GPU or without any Paddle.
        precision: of the engine, one of `PRECISIONS`; the network itself computes in float32 only.
        log: called with the line.

    Raises:
        ValueError: unknown engine, or the engine that was asked for is not installed, does not run this network, or does
            not have the precision; no engine has it on this machine.
        OSError: the graph cannot be written into the cache.
    """

    def __init__(
        self,
        model: nn.Layer,
        output: str,
        *,
        size: tuple[int, int],
        engine: str = AUTO,
        precision: str = "float32",
        log: Log = log_to_stderr,
    ) -> None:
        check_name(engine)
        check_precision(engine, precision)
        self._model, self._size, self._precision, self._log = model, size, precision, log
        self._function = _method(model, output)
        self._may_fall_back = engine == AUTO and precision == "float32"
        self._engine: Any = None
        reason = ""
        name = engine
        if engine == AUTO:
            name, reason = _choose(precision)
        if name != "paddle":
            try:
                self._open(name, output)
            except (ValueError, OSError, RuntimeError) as error:  # the last: OpenVINO's, of unreadable files
                if not self._may_fall_back:
                    raise
                name, reason = "paddle", str(error)
        if name == "paddle":
            if precision != "float32":
                raise ValueError(
                    f"precision {precision!r} is for engines, and Paddle runs this model"
                    f"{f' ({reason})' if reason else ''}; leave it out, or choose another engine"
                )
            log(f"engine: Paddle{f' ({reason})' if reason else ''}")

    def __call__(self, images: paddle.Tensor) -> paddle.Tensor:
        """The results for normalized float32 images."""
        if self._engine is None or tuple(images.shape[2:]) != self._size:
            return split_batch(self._function, images)
        if not self._is_compared:
            self._compare(images[:_MAX_IMAGES])
            return self(images)
        return paddle.to_tensor(self._engine(images.numpy())[0])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # `copy` and `pickle` ask for them before `__init__`
            raise AttributeError(name)
        return getattr(self._model, name)

    @property
    def engine_name(self) -> str:
        """The engine that answers, with its version."""
        return describe("paddle") if self._engine is None else self._name

    def _open(self, name: str, output: str) -> None:
        self._graph = CachedGraph(self._model, output, self._size, self._log)
        try:
            self._load(name)
        except Exception:  # each engine has its own for files that it cannot read
            if self._graph.is_intact():
                raise
            # Another process removed the graph.
            self._graph = CachedGraph(self._model, output, self._size, self._log)
            self._load(name)

    def _load(self, name: str) -> None:
        if (name, self._precision) == ("onnxruntime", "int8"):
            self._graph.add_int8()
        self._name = describe(name, self._precision)
        difference = self._graph.difference(self._name)
        self._is_compared = difference is not None
        if difference is not None:  # else the model's own weights are needed for the comparison
            self._graph.map_weights(self._model)
        self._engine = ENGINES[name](self._graph.target, self._precision, _num_threads(), "")
        if difference is not None:
            self._announce(difference)

    def _compare(self, images: paddle.Tensor) -> None:
        """Compare the engine with the network on images; use the network if they differ."""
        expected = split_batch(self._function, images).numpy()
        difference = relative_difference(self._engine(images.numpy())[0], expected)
        self._is_compared = True
        tolerance = TOLERANCES[self._precision]
        if difference <= tolerance:
            self._graph.record(self._name, difference)
            self._announce(difference)
            return
        said = f"{self._name} differs from the model by {difference:.1e} of its largest value; {tolerance:g} is allowed"
        if not self._may_fall_back:
            raise ValueError(f"{said}. Use --engine paddle")
        self._engine = None
        self._log(f"engine: Paddle ({said})")

    def _announce(self, difference: float) -> None:
        self._log(f"engine: {self._name}, differs from the model by {difference:.1e} of its largest value")


def compiled(
    model: nn.Layer, output: str, *, size: tuple[int, int], engine: str, precision: str = "float32"
) -> Function:
    """A function from normalized images to an output of a network; with the engine "paddle" the network itself computes it.

    The arguments are those of `CompiledModel`.
    """
    if engine == "paddle" and precision == "float32":
        return partial(split_batch, _method(model, output))
    return CompiledModel(model, output, size=size, engine=engine, precision=precision)


def _method(model: nn.Layer, output: str) -> Function:
    method: Function = model if output == "logits" else model.forward_features
    return method


def _choose(precision: str) -> tuple[str, str]:
    """The engine that `auto` stands for, and the reason if it is Paddle."""
    if not paddle.get_device().startswith("cpu"):
        return "paddle", "the device is a GPU"
    if found := preferred(precision):
        return found[0], ""
    if precision != "float32":
        return "paddle", "no installed engine has this precision"
    extra = ENGINES[fastest_first(precision)[0]].extra
    return "paddle", f'neither OpenVINO nor onnxruntime is installed: pip install "beit-paddle[{extra}]"'


def _num_threads() -> int:
    """Threads of an engine on this rank."""
    return int(given_threads() or cores_per_rank())
