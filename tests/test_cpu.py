"""CPU settings of the commands: only where they help, never over settings of the user, reported in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from beit import cpu
from beit.deploy.description import Description, write_description
from beit.parallel import launch as launcher
from beit.preprocessing import Preprocessing
from tests.tiny import ROOT, environment


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("MKL_DEBUG_CPU_TYPE", "KMP_BLOCKTIME", cpu.SWITCH):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(("vendor", "expected"), [("AuthenticAMD", "5"), ("GenuineIntel", None), ("", None)])
def test_the_fast_path_of_mkl_is_chosen_on_amd_only(
    environ: pytest.MonkeyPatch, vendor: str, expected: str | None
) -> None:
    environ.setattr(cpu, "cpu_vendor", lambda: vendor)
    cpu.before_paddle()
    assert os.environ.get("MKL_DEBUG_CPU_TYPE") == expected
    assert os.environ["KMP_BLOCKTIME"] == "0"
    for name in ("MKL_DEBUG_CPU_TYPE", "KMP_BLOCKTIME"):
        os.environ.pop(name, None)


def test_environment_variables_of_the_user_are_kept(environ: pytest.MonkeyPatch) -> None:
    environ.setattr(cpu, "cpu_vendor", lambda: "AuthenticAMD")
    environ.setenv("MKL_DEBUG_CPU_TYPE", "4")
    environ.setenv("KMP_BLOCKTIME", "200")
    cpu.before_paddle()
    assert (os.environ["MKL_DEBUG_CPU_TYPE"], os.environ["KMP_BLOCKTIME"]) == ("4", "200")


def test_the_switch_disables_all_settings(environ: pytest.MonkeyPatch) -> None:
    environ.setenv(cpu.SWITCH, "0")
    environ.setattr(cpu, "cpu_vendor", lambda: "AuthenticAMD")
    before = dict(os.environ)
    cpu.before_paddle()
    assert cpu.tune_cpu() == "CPU settings unchanged (BEIT_TUNE_CPU=0)"
    assert dict(os.environ) == before


def test_the_vendor_is_read_from_the_system() -> None:
    info = Path("/proc/cpuinfo")
    if "vendor_id" in info.read_text(encoding="utf-8"):
        assert cpu.cpu_vendor() in info.read_text(encoding="utf-8")
        assert cpu.cpu_vendor()


@pytest.mark.parametrize(("given", "expected"), [(None, len(os.sched_getaffinity(0))), ("1", 1), ("3", 3)])
@pytest.mark.parametrize("first", ["import beit", "import paddle, beit", "import beit, paddle"])
def test_matrix_products_use_all_cores_unless_the_user_sets_a_number(
    given: str | None, expected: int, first: str
) -> None:
    """Paddle uses one and writes that into the environment. Threads that start later use as many as the first."""
    script = (
        f"{first}\nline = beit.tune_cpu()\nimport threading\nfrom beit import cpu\n"
        "def count():\n"
        "    print(cpu._num_threads, *[library.omp_get_max_threads() for library in cpu._openmp()])\n"
        "count(); thread = threading.Thread(target=count); thread.start(); thread.join(); print(line)"
    )
    variables = {name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"}
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=variables | ({"OMP_NUM_THREADS": given} if given else {}),
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *counts, line = result.stdout.splitlines()
    assert {number for text in counts for number in text.split()} == {str(expected)}
    assert f"{expected} thread" in line


@pytest.mark.parametrize(
    ("given", "expected"), [(None, str(max(1, len(os.sched_getaffinity(0)) // 2))), ("3", "3")]
)
def test_ranks_on_a_cpu_share_its_cores(
    given: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spawn(*_args: object, **_options: object) -> SimpleNamespace:
        seen.append(os.environ["OMP_NUM_THREADS"])
        return SimpleNamespace(processes=[], error_queues=[])

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Paddle leaves it
    monkeypatch.setattr(launcher, "given_threads", lambda: given)
    monkeypatch.setattr(launcher.distributed, "spawn", spawn)
    monkeypatch.setattr(launcher, "_supervise", lambda *_: 0)
    assert launcher.launch(print, (), ranks=2, device="cpu", grace=1.0) == 0
    assert seen == [expected]


def flag_after(code: str, **extra: str) -> str:
    script = f"{code}\nimport paddle\nprint(paddle.get_flags('FLAGS_use_stride_kernel')['FLAGS_use_stride_kernel'])"
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment() | extra, cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return result.stdout.split()[-1]


@pytest.mark.slow
def test_importing_the_library_changes_no_settings() -> None:
    assert flag_after("import beit, beit.train.run") == "True"
    assert flag_after("from beit.cpu import tune_cpu; assert 'no strided views' in tune_cpu()") == "False"
    assert flag_after("from beit.cpu import tune_cpu; tune_cpu()", FLAGS_use_stride_kernel="1") == "True"
    assert flag_after("import beit; beit.tune_cpu()") == "False"


@pytest.mark.parametrize(
    "call",
    [
        "import beit; beit.tune_cpu()",
        "from beit.deploy.runner import load_runner\ntry: load_runner(FOLDER)\nexcept FileNotFoundError: pass",
    ],
)
def test_variables_that_paddle_reads_at_import_are_set_before(call: str, tmp_path: Path) -> None:
    """By `tune_cpu` and by the runner of exported folders."""
    pictures = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), crop_pct=0.9, interpolation="bicubic")
    write_description(tmp_path, Description("classify", "logits", ("logits",), (8, 8), False, pictures))
    script = (
        f"import os, sys; FOLDER = {str(tmp_path)!r}\n{call}\n"
        "assert 'paddle' in sys.modules; print(os.environ['KMP_BLOCKTIME'])"
    )
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment(), cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert result.stdout.split()[-1] == "0"
