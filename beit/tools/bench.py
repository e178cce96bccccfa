"""`python -m beit bench`: time this package and the installed baselines with the same weights, inputs and threads.

Each candidate runs in a process of its own; they are timed in alternation. Where results differ no ratio is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import paddle

from beit.bench.benchmarks import MODES, Settings
from beit.bench.timing import GEMM, MIN_ROUNDS, Benchmark, Candidate, Result, run_benchmark
from beit.figures import make_figure, save_figure
from beit.files import require_writable, write_text
from beit.flags import Parser
from beit.logging import format_table
from beit.tools.arguments import check_picture, picture, positive, verb_parser

EXAMPLES = (
    "python -m beit bench infer --model beit_tiny_patch16_224 --batch 8 --rounds 3",
    "python -m beit bench train pretrain data load --peer-python python --json bench.json --picture bench.png",
)
_PROBE = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks and print their tables."""
    given = _arguments(argv)
    # The libraries of each process read it when they start.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    paddle.set_device("cpu")
    find = lru_cache(maxsize=None)(partial(_interpreter_with, (sys.executable, *given.peer_python)))
    records = []
    for mode in given.modes or ["infer"]:
        for model, batch, precision in _settings(given, mode):
            with tempfile.TemporaryDirectory(prefix="beit-bench-") as folder:
                settings = Settings(
                    model=model,
                    batch=batch,
                    precision=precision,
                    threads=given.threads,
                    device=given.device,
                    folder=Path(folder),
                    find=find,
                    paddlevit=given.paddlevit,
                    images=given.images,
                )
                for benchmark in MODES[mode](settings):
                    print(benchmark.title, file=sys.stderr, flush=True)
                    before = _load()
                    results = run_benchmark(
                        replace(benchmark, candidates=_chosen(benchmark, given.only)),
                        Path(folder),
                        interpreter_of=lambda candidate: find(candidate.needs),
                        rounds=given.rounds,
                        starts=given.starts,
                    )
                    load = (before, _load())
                    print(table(benchmark, results, load), flush=True)
                    records.append(_record(benchmark, results, load))
    if given.json:
        report = {"machine": _machine(given), "benchmarks": records}
        write_text(given.json, json.dumps(report, indent=2) + "\n")
        print(f"numbers: {given.json}")
    if given.picture:
        print(f"plot: {draw(records, given.picture)}")


def table(benchmark: Benchmark, results: Sequence[Result], load: tuple[float, float]) -> str:
    """The results of a benchmark as text: medians, quartiles in brackets.

    Args:
        benchmark: the work.
        results: of its candidates.
        load: mean number of running processes in the minute before the benchmark and in its last minute.
    """
    first = results[0].name
    titles = (
        "",
        f"{benchmark.unit}/s",
        f"time / {first}",
        f"than {first}",
        "of peak",
        "first",
        "memory",
        "differs",
    )
    rows = format_table([titles, *map(_cells, results)], left=1).splitlines()
    notes = ["", *map(_notes, results)]
    lines = [
        f"\n{benchmark.title}",
        f"load of the machine: {load[0]:.1f} before, {load[1]:.1f} at the end, {os.cpu_count()} cores",
    ]
    lines += [f"{row}  {note}".rstrip() for row, note in zip(rows, notes, strict=True)]
    rate = results[0].rate
    if benchmark.expected and rate:
        lines.append(
            f"{first} reaches {100 * rate[0] / benchmark.expected:.0f} % of the {benchmark.expected:.0f} {benchmark.unit}/s "
            "expected of this GPU (docs/scaling.md)"
        )
    if benchmark.arithmetic and results[0].rate is not None:
        lines.append("time and multiply-adds of a step, relative to the first:")
        base = next(iter(benchmark.arithmetic.values()))
        for result in results:
            if result.ratio is not None and result.name in benchmark.arithmetic:
                work = benchmark.arithmetic[result.name] / base
                lines.append(
                    f"{result.name:34} time {result.ratio[0]:.2f}  arithmetic {work:.2f}  "
                    f"time / arithmetic {result.ratio[0] / work:.2f}"
                )
    return "\n".join(lines)


def draw(records: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write a bar plot of the rates, a panel for each benchmark; returns the path."""
    figure, axes = make_figure(len(records), 1, 8, 0.9 + 2.4 * len(records))
    for axis, record in zip(axes[:, 0], records, strict=True):
        shown = [entry for entry in record["results"] if entry["rate"] and entry["name"] != GEMM]
        rates = [entry["rate"][0] for entry in shown]
        spread = [
            [abs(entry["rate"][0] - entry["rate"][1]) for entry in shown],
            [abs(entry["rate"][2] - entry["rate"][0]) for entry in shown],
        ]
        colors = ["tab:blue" if entry["name"].startswith("beit") else "tab:gray" for entry in shown]
        axis.barh([entry["name"] for entry in shown], rates, xerr=spread, color=colors)
        axis.invert_yaxis()
        axis.set_title(record["title"], fontsize=9)
        axis.set_xlabel(f"{record['unit']}/s, median and quartiles", fontsize=8)
        axis.tick_params(labelsize=8)
    return save_figure(figure, path)


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("bench", __doc__, EXAMPLES)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{', '.join(MODES)} (default: infer)")
    parser.add_argument("--model", nargs="+", default=["beit_base_patch16_224"], help="names of configs")
    parser.add_argument("--batch", type=positive, nargs="+", default=[8], help="images per step (default: 8)")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument(
        "--rounds",
        type=positive,
        default=MIN_ROUNDS,
        help=f"how often each candidate is timed; fewer than {MIN_ROUNDS} give no verdict (default: {MIN_ROUNDS})",
    )
    parser.add_argument(
        "--starts",
        type=int,
        default=1,
        help="infer: processes of each candidate that are started once more, for the time until their first result and "
        "their memory (default: 1)",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=os.cpu_count(),
        help="threads of each candidate (default: all cores)",
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="cpu or gpu (default: cpu)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        help="run only candidates whose name contains one of these, and the first",
    )
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="PATH",
        help="interpreter in which to look for baselines as well; may be repeated",
    )
    parser.add_argument("--paddlevit", metavar="FOLDER", help="PaddleViT's image_classification/BEiT")
    parser.add_argument("--images", metavar="FOLDER", help="JPEG files for `data` (default: generated ones)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    parser.add_argument("--picture", metavar="FILE", type=picture, help="write a plot of the rates")
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    given = build_parser().parse_args(argv)
    unknown = [mode for mode in given.modes if mode not in MODES]
    if unknown:
        raise ValueError(f"unknown mode {unknown[0]!r}; there are {', '.join(MODES)}")
    if given.json:
        require_writable(given.json)
    if given.picture:
        check_picture(given.picture, ())
    return given


def _settings(given: argparse.Namespace, mode: str) -> list[tuple[str, int, str]]:
    """Combinations of model, batch and precision that make a difference in a mode."""
    if mode in ("data", "load"):
        return [(model, given.batch[0], "float32") for model in given.model]
    precisions = ["float32"] if mode == "pretrain" else given.precision
    return [(model, batch, kind) for model in given.model for batch in given.batch for kind in precisions]


def _chosen(benchmark: Benchmark, only: Sequence[str] | None) -> tuple[Candidate, ...]:
    if only is None:
        return benchmark.candidates
    first, *others = benchmark.candidates
    return (first, *(one for one in others if one.name == GEMM or any(text in one.name for text in only)))


def _interpreter_with(interpreters: Sequence[str], needs: tuple[str, ...]) -> str | None:
    """The first interpreter that can import all modules."""
    for interpreter in interpreters:
        if shutil.which(interpreter) is None:
            raise ValueError(f"--peer-python {interpreter}: no such program")
        if subprocess.run([interpreter, "-c", _PROBE, *needs], check=False).returncode == 0:
            return interpreter
    return None


def _cells(result: Result) -> Sequence[str]:
    if result.rate is None:
        return (result.name, *[""] * 7)
    scale, unit = (1e9, " G") if result.name == GEMM else (1.0, "")
    middle, low, high = (value / scale for value in result.rate)
    ratio = result.ratio
    return (
        result.name,
        f"{middle:.4g} ({low:.4g}-{high:.4g}){unit}",
        f"{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})" if ratio else "",
        result.verdict,
        f"{100 * result.share_of_peak:.0f} %" if result.share_of_peak else "",
        f"{result.start[0]:.1f} s" if result.start else "",
        f"{result.peak_bytes / 2**30:.2f} GiB" if result.peak_bytes else "",
        f"{result.difference:.1e}" if result.difference else "",
    )


def _notes(result: Result) -> str:
    if result.rate is not None and result.same_best is not None and result.same_best < 1:
        return f"same best {100 * result.same_best:.0f} %  {result.note}"
    return result.note


def _load() -> float:
    """Mean number of running processes in the last minute; NaN on systems that do not count them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def _record(benchmark: Benchmark, results: Sequence[Result], load: tuple[float, float]) -> dict[str, Any]:
    return {
        "title": benchmark.title,
        "load_before": load[0],
        "load_at_the_end": load[1],
        "unit": benchmark.unit,
        "units_per_step": benchmark.units,
        "multiply_adds_per_step": benchmark.multiply_adds,
        "arithmetic": dict(benchmark.arithmetic),
        "expected": benchmark.expected,
        "results": [result.as_dict() for result in results],
    }


def _machine(given: argparse.Namespace) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "threads": given.threads,
        "device": given.device,
        "system": platform.platform(),
        "python": platform.python_version(),
        "paddle": paddle.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
