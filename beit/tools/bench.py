"""`python -m beit bench`: this package against whatever peers are installed, same weights, same inputs, same threads, in turn.

Each contender is a process of its own. No ratio is printed where results differ.
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
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import paddle

from beit.bench.contest import GEMM, Contender, Standing, run_contest
from beit.bench.contests import MODES, Contest, Settings
from beit.figures import pyplot, save_figure
from beit.tools.arguments import verb_parser

EXAMPLES = (
    "python -m beit bench infer --model beit_tiny_patch16_224 --batch 8 --rounds 3",
    "python -m beit bench train pretrain data load --peer-python python --json bench.json --picture bench.png",
)
_PROBE = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the contests and print their tables."""
    given = _arguments(argv)
    # Read by the libraries of each process while they start.
    os.environ["OMP_NUM_THREADS"] = str(given.threads)
    paddle.set_device("cpu")
    find = lru_cache(maxsize=None)(partial(_interpreter_with, (sys.executable, *given.peer_python)))
    results = []
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
                for contest in MODES[mode](settings):
                    print(contest.title, file=sys.stderr, flush=True)
                    standings = run_contest(
                        _chosen(contest, given.only),
                        contest.specification,
                        Path(folder),
                        interpreter_of=lambda contender: find(contender.needs),
                        rounds=given.rounds,
                        units=contest.units,
                        multiply_adds=contest.multiply_adds,
                    )
                    print(table(contest, standings), flush=True)
                    results.append(_record(contest, standings))
    if given.json:
        report = {"machine": _machine(given), "contests": results}
        Path(given.json).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"numbers: {given.json}")
    if given.picture:
        print(f"picture: {draw(results, Path(given.picture))}")


def table(contest: Contest, standings: Sequence[Standing]) -> str:
    """The standings of a contest as text: medians, quartiles in brackets."""
    first = standings[0].name
    lines = [
        f"\n{contest.title}",
        f"{'':34} {contest.unit + '/s':>22} {f'{first} is faster by':>26} {'of peak':>8} {'memory':>8} {'differs':>9}",
    ]
    for standing in standings:
        lines.append(_line(standing))
    if contest.arithmetic and standings[0].rate is not None:
        lines.append("time of a step against the first one, and multiply-adds against the first one's:")
        base = next(iter(contest.arithmetic.values()))
        for standing in standings:
            if standing.ratio is not None and standing.name in contest.arithmetic:
                work = contest.arithmetic[standing.name] / base
                lines.append(
                    f"{standing.name:34} time {standing.ratio[0]:.2f}  arithmetic {work:.2f}  "
                    f"time / arithmetic {standing.ratio[0] / work:.2f}"
                )
    return "\n".join(lines)


def draw(results: Sequence[dict[str, Any]], path: Path) -> Path:
    """Bars of the rates, a panel for each contest; the path."""
    plt = pyplot()
    figure, axes = plt.subplots(len(results), 1, figsize=(8, 0.9 + 2.4 * len(results)), squeeze=False)
    for axis, result in zip(axes[:, 0], results, strict=True):
        shown = [entry for entry in result["standings"] if entry["rate"] and entry["name"] != GEMM]
        rates = [entry["rate"][0] for entry in shown]
        spread = [
            [abs(entry["rate"][0] - entry["rate"][1]) for entry in shown],
            [abs(entry["rate"][2] - entry["rate"][0]) for entry in shown],
        ]
        colors = ["tab:blue" if entry["name"].startswith("beit") else "tab:gray" for entry in shown]
        axis.barh([entry["name"] for entry in shown], rates, xerr=spread, color=colors)
        axis.invert_yaxis()
        axis.set_title(result["title"], fontsize=9)
        axis.set_xlabel(f"{result['unit']}/s, median and quartiles", fontsize=8)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    return save_figure(figure, path)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = verb_parser("bench", __doc__, EXAMPLES)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"{', '.join(MODES)} (default: infer)")
    parser.add_argument("--model", nargs="+", default=["beit_base_patch16_224"], help="names of configs")
    parser.add_argument("--batch", type=int, nargs="+", default=[8], help="images of a step (default: 8)")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument(
        "--rounds", type=int, default=7, help="how often each contender's turn comes (default: 7)"
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of each contender (default: all cores)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"), help="cpu or gpu (default: cpu)")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="TEXT",
        help="contenders whose name has one of these; the first always runs",
    )
    parser.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="PATH",
        help="interpreter in which to look for peers too; may be given again",
    )
    parser.add_argument("--paddlevit", metavar="FOLDER", help="PaddleViT's image_classification/BEiT")
    parser.add_argument("--images", metavar="FOLDER", help="JPEG files for `data` (default: made up ones)")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    parser.add_argument("--picture", metavar="FILE", help="write a PNG with the rates")
    given = parser.parse_args(argv)
    unknown = [mode for mode in given.modes if mode not in MODES]
    if unknown:
        raise ValueError(f"unknown mode {unknown[0]!r}; there are {', '.join(MODES)}")
    return given


def _settings(given: Any, mode: str) -> list[tuple[str, int, str]]:
    """Models, batches and precisions that a mode tells apart."""
    if mode in ("data", "load"):
        return [(model, given.batch[0], "float32") for model in given.model]
    precisions = ["float32"] if mode == "pretrain" else given.precision
    return [(model, batch, kind) for model in given.model for batch in given.batch for kind in precisions]


def _chosen(contest: Contest, only: Sequence[str] | None) -> list[Contender]:
    if only is None:
        return list(contest.contenders)
    first, *others = contest.contenders
    return [first, *(one for one in others if one.name == GEMM or any(text in one.name for text in only))]


def _interpreter_with(interpreters: Sequence[str], needs: tuple[str, ...]) -> str | None:
    """The first interpreter that has all modules."""
    for interpreter in interpreters:
        if shutil.which(interpreter) is None:
            raise ValueError(f"--peer-python {interpreter}: no such program")
        if subprocess.run([interpreter, "-c", _PROBE, *needs], check=False).returncode == 0:
            return interpreter
    return None


def _line(standing: Standing) -> str:
    if standing.rate is None:
        return f"{standing.name:34} {standing.note}"
    scale, unit = (1e9, " G") if standing.name == GEMM else (1.0, "")
    middle, low, high = (value / scale for value in standing.rate)
    cells = [f"{standing.name:34} {f'{middle:.4g} ({low:.4g}-{high:.4g}){unit}':>22}"]
    ratio = standing.ratio
    cells.append(f"{f'{ratio[0]:.2f} ({ratio[1]:.2f}-{ratio[2]:.2f})' if ratio else '':>26}")
    cells.append(f"{f'{100 * standing.share_of_peak:.0f} %' if standing.share_of_peak else '':>8}")
    cells.append(f"{f'{standing.peak_bytes / 2**30:.2f} GiB' if standing.peak_bytes else '':>8}")
    cells.append(f"{f'{standing.difference:.1e}' if standing.difference else '':>9}")
    if standing.same_best is not None and standing.same_best < 1:
        cells.append(f"same best {100 * standing.same_best:.0f} %")
    return " ".join([*cells, standing.note]).rstrip()


def _record(contest: Contest, standings: Sequence[Standing]) -> dict[str, Any]:
    return {
        "title": contest.title,
        "unit": contest.unit,
        "units_per_step": contest.units,
        "multiply_adds_per_step": contest.multiply_adds,
        "arithmetic": contest.arithmetic,
        "standings": [standing.as_dict() for standing in standings],
    }


def _machine(given: Any) -> dict[str, Any]:
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
