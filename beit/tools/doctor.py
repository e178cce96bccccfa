"""`python -m beit doctor`: what works on this machine, in one table, in less than a minute.

Versions, processor, GPUs; whether the device computes the right numbers; a step of each task; several ranks; speed. Send
the table (or --json) along when you report a problem. The exit status is 1 if there are problems. What the checks print
is in a log file, which is removed if there are no problems.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TextIO

import paddle

from beit.doctor import environment, numerics, training
from beit.doctor.findings import Check, Finding, findings_of
from beit.doctor.several_ranks import several_ranks
from beit.flags import Parser
from beit.parallel import ranks
from beit.streams import output_to
from beit.tools.arguments import verb_parser
from beit.tools.model_arguments import add_device

EXAMPLES = (
    "python -m beit doctor",
    "python -m beit doctor --ranks 0 --json",
)
PROBLEMS = 1
"""Exit status when there are problems."""


def build_parser() -> Parser:
    """The parser of the verb's arguments."""
    parser = verb_parser("doctor", __doc__, EXAMPLES)
    add_device(parser)
    parser.add_argument(
        "--ranks", type=int, metavar="N", help="ranks to try; 0 or 1: none (default: all GPUs, 2 on a CPU)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if there are problems, else 0."""
    given = build_parser().parse_args(argv)
    device = ranks.choose_device(given.device)
    world_size = given.ranks
    if world_size is None:
        world_size = paddle.device.cuda.device_count() if device == "gpu" else 2
    found: list[Finding] = []
    part = ""
    handle, name = tempfile.mkstemp(prefix="beit-doctor-", suffix=".log")
    with os.fdopen(handle, "a", buffering=1, encoding="utf-8") as log:
        print(f"messages of the checks: {name}", file=sys.stderr, flush=True)  # first: a check may crash
        for finding in examine(device, world_size, log):
            found.append(finding)
            if not given.json:
                if finding.part != part:
                    print(f"{finding.part}", flush=True)
                part = finding.part
                print(_line(finding), flush=True)
    problems = [finding for finding in found if finding.status == "problem"]
    if given.json:
        print(
            json.dumps(
                {"device": device, "problems": len(problems), "findings": [asdict(one) for one in found]},
                indent=2,
            )
        )
    else:
        print(_conclusion(found))
    if problems:
        return PROBLEMS
    Path(name).unlink()
    return 0


def examine(device: str, world_size: int, log: TextIO) -> Iterator[Finding]:
    """All findings.

    Args:
        device: "gpu" or "cpu".
        world_size: ranks to try; below 2 none.
        log: takes what the checks print.
    """
    paddle.set_device(device)
    with tempfile.TemporaryDirectory(prefix="beit-doctor-") as name:
        folder = Path(name)
        checks: dict[str, Check] = {
            "versions": environment.versions,
            "processor": environment.processor,
            "GPUs": environment.gpus,
            "attention": partial(numerics.attention, device),
            "numbers": partial(numerics.numbers, device),
            "steps": partial(training.steps, folder, device),
            "loader": partial(training.loading, folder),
        }
        if world_size > 1:
            checks["ranks"] = partial(several_ranks, folder, device, world_size)
        with output_to(log):
            training.write_data(folder)
        for part, check in checks.items():
            with output_to(log):
                found = list(findings_of(part, check))
            yield from found


def _line(finding: Finding) -> str:
    mark = {"ok": " ", "note": "!", "problem": "X"}[finding.status]
    return f"{mark} {finding.name:20} {finding.value}"


def _conclusion(found: Sequence[Finding]) -> str:
    advised = [finding for finding in found if finding.status != "ok"]
    if not advised:
        return "\nno problems found"
    lines = [f"{finding.part}, {finding.name}: {finding.advice or finding.value}" for finding in advised]
    return "\n".join(["\nwhat to change", *(f"  {line}" for line in lines)])
