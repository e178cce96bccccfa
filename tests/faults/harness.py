"""Commands whose processes can all be found and ended, and the results of the fault tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from beit.checkpoint.files import read_checkpoint
from tests.tiny import ROOT, environment

LATEST = "latest.pdparams"
PATH = os.pathsep.join((str(ROOT), str(Path(__file__).parent / "slow_reads")))
START = 240.0  # seconds a command may take to its first step on a busy machine
END = 240.0  # and from a fault to its end; rows state how long it took


@dataclass
class Row:
    """One fault and its result; `seconds` is from the fault to the message, None where there is no message."""

    family: str
    fault: str = ""
    expected: str = ""
    seen: str = ""
    seconds: float | None = None
    failure: str = ""


@dataclass
class Command:
    """A running command with its output file and all processes it has started."""

    process: subprocess.Popen[str]
    log: Path
    mark: str
    output: Path
    steps_before: int = field(default=0)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, happened: Callable[[], bool], timeout: float = START, pause: float = 0.005) -> None:
        deadline = time.monotonic() + timeout
        while not happened():
            assert self.process.poll() is None, (
                f"ended with {self.process.returncode} too early: {self.text()[-1500:]}"
            )
            assert time.monotonic() < deadline, f"did not happen in {timeout:g} s: {self.text()[-1500:]}"
            time.sleep(pause)

    def wait_for_step(self, step: int) -> None:
        """Wait until this command has logged so many steps."""
        self.wait_for(lambda: lines_of(self.output) >= self.steps_before + step)

    def wait_for_text(self, text: str) -> None:
        self.wait_for(lambda: text in self.text(), pause=0.05)

    def end(self, timeout: float = END) -> int:
        """Exit status; a command that does not end in time is killed, and the test fails."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.sweep()
            raise AssertionError(f"still running after {timeout:g} s: {self.text()[-1500:]}") from None

    def members(self) -> list[int]:
        """Process ids of the command and of all processes it has started, whatever their parents are now."""
        return marked(self.mark)

    def survivors(self, within: float = 60.0) -> list[int]:
        """Process ids that are still alive some seconds after the command has ended."""
        deadline = time.monotonic() + within
        while (alive := self.members()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive

    def sweep(self) -> None:
        kill_all(self.mark)
        self.process.wait(30)


def start(arguments: list[str], output: Path, *, extra: Mapping[str, str] | None = None) -> Command:
    """Start a command in a session of its own, so that signals to it reach no other process."""
    start.count += 1  # type: ignore[attr-defined]
    mark = f"{os.getpid()}-{start.count}"  # type: ignore[attr-defined]
    log = output.with_name(f"{output.name}.{mark}.stdout")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            arguments, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, cwd=ROOT,
            env=environment() | {"BEIT_FAULT": mark, "PYTHONPATH": PATH} | dict(extra or {}), start_new_session=True,
        )  # fmt: skip
    return Command(process, log, mark, output, lines_of(output))


start.count = 0  # type: ignore[attr-defined]


def finish(
    arguments: list[str], output: Path, *, timeout: float = 300, **options: Mapping[str, str]
) -> tuple[int, str, float]:
    """Exit status, output and seconds of a command that ends by itself."""
    begin = time.monotonic()
    command = start(arguments, output, **options)
    status = command.end(timeout)
    return status, command.text(), time.monotonic() - begin


def succeed(arguments: list[str], output: Path) -> str:
    status, text, _ = finish(arguments, output)
    assert status == 0, text[-2000:]
    return text


def kill_all(mark: str) -> None:
    """Kill all processes but resource trackers, which remove the semaphores of killed processes and then end."""
    for pid in marked(mark):
        if "resource_tracker" not in cmdline(pid):
            kill(pid)


def marked(mark: str) -> list[int]:
    wanted = f"BEIT_FAULT={mark}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            is_member = wanted in (folder / "environ").read_bytes().split(b"\0")
            is_zombie = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
        except OSError:
            continue
        if is_member and not is_zombie:
            found.append(int(folder.name))
    return found


def ranks_of(command: Command) -> list[int]:
    """Process ids of the ranks that the launching process started, in order."""
    pid = command.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [
        child
        for child in map(int, children)
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8")
    ]


def workers_of(command: Command) -> list[int]:
    """Process ids of the data workers, which are children of the fork server and not of the command."""
    servers = {pid for pid in command.members() if "forkserver" in cmdline(pid)}
    return [pid for pid in servers if parent(pid) in servers]


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def can_mount() -> bool:
    """Whether this user may mount a tmpfs in a mount namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    words = [*namespace(), "mount -t tmpfs -o size=64k tmpfs /mnt"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def namespace() -> list[str]:
    return ["unshare", "--map-root-user", "--mount", "sh", "-c"]


needs_mount = pytest.mark.skipif(
    not can_mount(), reason="no right to mount a file system, even in an own namespace"
)


def make_hang(image: Path) -> None:
    """Let every read of the image block, as on a network drive that hangs (`slow_reads/sitecustomize.py`)."""
    image.with_name(f"{image.name}.hangs").touch()


def copied(data: Path, root: Path) -> Path:
    """A copy of the data, for a test that changes it."""
    shutil.copytree(data, root)
    return root


def lines_of(output: Path) -> int:
    """Number of logged training steps, including steps that ran twice."""
    file = output / "metrics.jsonl"
    return file.read_bytes().count(b'"train/loss"') if file.exists() else 0


def step_of(output: Path) -> int:
    """Step of the newest checkpoint, whose checksum is verified; -1 if there is none."""
    file = output / LATEST
    return int(read_checkpoint(file)["step"]) if file.exists() else -1


def different_states(first: Path, second: Path) -> list[str]:
    """Names of tensors of the whole training states that differ in a single bit."""
    a, b = (read_checkpoint(folder / LATEST) for folder in (first, second))
    parts = [part for part in ("model", "model_ema", "optimizer") if a[part] is not None]
    assert all(a[part].keys() == b[part].keys() for part in parts) and a["step"] == b["step"]
    return [
        f"{part}.{name}"
        for part in parts
        for name in a[part]
        if a[part][name].tobytes() != b[part][name].tobytes()
    ]


def leftovers(output: Path) -> list[str]:
    """Half-written files in an output folder."""
    return [path.name for path in output.rglob("*") if path.name.endswith((".tmp", ".partial"))]


def message(text: str) -> str:
    """The line of the output that says what went wrong."""
    lines = [
        line
        for line in text.splitlines()
        if line.startswith("error:") or "stopped by" in line or "warning:" in line
    ]
    return lines[-1] if lines else text[-300:]


def json_lines(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
