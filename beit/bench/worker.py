"""A process in which one candidate runs, and the parent's handle to it. Imports neither Paddle nor PyTorch.

`python -m beit.bench.worker MODULE:FUNCTION` reads JSON lines. The first is the specification of the work, from which the
function builds a step; the step is called once, and its results are saved for comparison. Each further line is a number
of steps to time.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Step = Callable[[], Any]
"""One step of the work; the first call returns an array or a dict of arrays."""

_PACKAGE_PARENT = Path(__file__).parents[2]


class WorkerFailedError(RuntimeError):
    """A candidate failed; the message says why."""


class Worker:
    """The parent's handle: starts the process and requests steps.

    Args:
        function: `MODULE:FUNCTION` that builds a step from a specification.
        specification: of the work; must be serializable as JSON.
        results: file for the results of the first step, `.npz`.
        interpreter: path of a Python interpreter, which may have other libraries.
        environment: changes to the environment of this process; None removes a variable.
        log: file for the output of the process.
    """

    def __init__(
        self,
        function: str,
        specification: Mapping[str, Any],
        results: Path,
        *,
        interpreter: str = sys.executable,
        environment: Mapping[str, str | None] | None = None,
        log: Path,
    ) -> None:
        variables = dict(os.environ)
        variables["PYTHONPATH"] = os.pathsep.join(
            [str(_PACKAGE_PARENT), *filter(None, [variables.get("PYTHONPATH")])]
        )
        for name, value in (environment or {}).items():
            variables.pop(name, None)
            if value is not None:
                variables[name] = value
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [interpreter, "-m", "beit.bench.worker", function],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=variables,
            )
        self._specification, self._results = dict(specification), results

    def prepare(self) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Build the step and call it once; returns its results and the versions of the loaded libraries.

        Raises:
            WorkerFailedError: the process failed.
        """
        answer = self._ask({"specification": self._specification, "results": str(self._results)})
        with np.load(self._results) as file:
            return {name: file[name] for name in file.files}, answer["versions"]

    def time(self, steps: int) -> tuple[float, int]:
        """Seconds of one step, averaged over `steps`, and the peak memory of the process in bytes.

        Raises:
            WorkerFailedError: the process failed.
        """
        answer = self._ask({"steps": steps})
        return answer["seconds"], answer["peak_bytes"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None  # both are pipes
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            lines = self._log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise WorkerFailedError(f"ended with status {self._process.wait()}: {lines[-1]}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerFailedError(answer["error"])
        return answer


def save_arrays(file: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as `.npz`."""
    np.savez(file, **arrays)


def serve(function: str) -> None:
    """Run in the worker process: answer requests until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the output of libraries must not be read as an answer
    step: Step | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if step is None:
                step = _build(function, request["specification"])
                save_arrays(request["results"], _named(step()))
                answer: dict[str, Any] = {"versions": _versions()}
            else:
                answer = _timed(step, request["steps"])
        except Exception as error:  # sent to the parent, which reports it
            answer = {"error": f"{type(error).__name__}: {_first_line(error)}"}
        print(json.dumps(answer), file=replies, flush=True)


def read_once(tensors: Callable[[], Mapping[str, Any]]) -> Step:
    """A step that reads named tensors in a fork of this process, because reading into reused memory is faster.

    The first call reads in this process; the results are the sums of the tensors.
    """
    seen: list[dict[str, np.ndarray]] = []

    def step() -> dict[str, np.ndarray]:
        if not seen:
            seen.append({name: np.float64(np.asarray(tensor).sum()) for name, tensor in tensors().items()})
        else:
            child = os.fork()
            if not child:
                try:
                    tensors()
                    os._exit(0)
                finally:
                    os._exit(1)
            if os.waitpid(child, 0)[1]:
                raise RuntimeError("the reading process failed")
        return seen[0]

    return step


def _build(function: str, specification: Mapping[str, Any]) -> Step:
    module, _, name = function.partition(":")
    step: Step = vars(importlib.import_module(module))[name](specification)
    return step


def _timed(step: Step, steps: int) -> dict[str, Any]:
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return {"seconds": (time.perf_counter() - begin) / steps, "peak_bytes": _peak_bytes()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300]


def _named(results: Any) -> dict[str, np.ndarray]:
    return results if isinstance(results, dict) else {"result": np.asarray(results)}


def _peak_bytes() -> int:
    """Largest resident size so far of this process or, if it has started ranks, of one of them; libraries included."""
    return max(map(_peak_of, (os.getpid(), *(child.pid for child in multiprocessing.active_children()))))


def _peak_of(process: int | None) -> int:
    status = Path(f"/proc/{process}/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _versions() -> dict[str, str]:
    """Versions of the loaded libraries."""
    names: Sequence[str] = (
        "paddle",
        "torch",
        "timm",
        "transformers",
        "torchvision",
        "onnxruntime",
        "openvino",
        "PIL",
    )
    found = {
        name: str(getattr(sys.modules[name], "__version__", "?")) for name in names if name in sys.modules
    }
    return {**found, "numpy": np.__version__}


if __name__ == "__main__":
    serve(sys.argv[1])
