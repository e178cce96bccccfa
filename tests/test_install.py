"""Without a supported Paddle every entry point prints the lines that install it; VisualDL is optional."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from beit import install
from beit.install import CPU_LINE, GPU_LINE, PADDLE_RANGE, PaddleError, check_paddle
from tests.tiny import ROOT, environment


def run_without(module: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The result of `python ARGUMENTS` where a module looks as if it were not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment() | {"PYTHONPATH": paths}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [
        ("main_multi_gpu.py", "-cfg=demo_digits"),
        ("main_single_gpu.py", "-cfg=demo_digits", "-eval"),
        ("-m", "beit", "predict", "output/run", "photo.jpg"),
        ("-m", "beit", "serve", "output/run"),
        *((f"examples/{path.name}", "output") for path in sorted((ROOT / "examples").glob("*.py"))),
    ],
)
def test_commands_without_paddle_print_two_install_lines(arguments, tmp_path):
    result = run_without("paddle", tmp_path, *arguments)
    assert result.returncode == 2 and result.stdout == ""
    first, *lines = result.stderr.splitlines()
    assert first.startswith("error: Paddle is not installed")
    assert lines == [f"  {CPU_LINE}", f"  {GPU_LINE}"]


@pytest.mark.parametrize("arguments", [("examples/pretrain_digits.py",), ("-m", "beit.tools.digits")])
def test_scripts_without_scikit_learn_say_what_to_install(arguments, tmp_path):
    result = run_without("sklearn", tmp_path, *arguments, str(tmp_path / "digits"))
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1:] == [
        'error: the handwritten digits need scikit-learn: pip install "beit-paddle[demo]"'
    ]


@pytest.mark.parametrize("module", ["digits", "scenes"])
def test_scripts_without_a_folder_print_their_usage(module, tmp_path):
    result = run_without("paddle", tmp_path, "-m", f"beit.tools.{module}")
    assert result.returncode == 2 and result.stderr.startswith(f"usage: {module}.py [-h] FOLDER\n")


def test_python_names_without_paddle_raise_the_same_message(tmp_path):
    code = "import beit; beit.get_config('beit_tiny_patch16_224'); beit.get_model('x')"
    result = run_without("paddle", tmp_path, "-c", code)
    assert result.stderr.splitlines()[-3].startswith("beit.install.PaddleError: Paddle is not installed")
    assert result.stderr.splitlines()[-2:] == [f"  {CPU_LINE}", f"  {GPU_LINE}"]


@pytest.mark.parametrize("version", ["2.6.2", "2.6.2.post120"])
def test_a_paddle_that_is_too_old_is_named(version, monkeypatch):
    monkeypatch.setattr(install, "paddle_version", lambda: version)
    with pytest.raises(PaddleError, match=f"Paddle {version} is installed, which is too old"):
        check_paddle()


@pytest.mark.parametrize("version", ["3.0.0rc1", "3.0.0", "3.3.1", "3.10.0", None])
def test_a_paddle_that_is_new_enough_or_built_from_source_passes(version, monkeypatch):
    monkeypatch.setattr(install, "paddle_version", lambda: version)
    check_paddle()


def test_the_range_of_paddle_is_stated_once():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\ncpu = ["paddlepaddle{PADDLE_RANGE}"]' in project
    assert f'\ngpu = ["paddlepaddle-gpu{PADDLE_RANGE}"]' in project
    assert project.count("paddlepaddle") == 2


def test_the_constraints_pin_every_package_of_the_tests_within_its_range():
    pinned: dict[str, list[SpecifierSet]] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            pinned.setdefault(requirement.name, []).append(requirement.specifier)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [
        re.search(rf"^{name} = \[\n(.*?)^\]", project, re.DOTALL | re.MULTILINE)
        for name in ("dependencies", "demo", "test")
    ]
    texts = [text for found in lists for text in re.findall(r'^ +"([^"]+)"', found.group(1), re.MULTILINE)]
    wanted = [Requirement(text) for text in texts if not text.startswith("beit-paddle")]
    wanted.append(Requirement(f"paddlepaddle{PADDLE_RANGE}"))
    assert len(wanted) > 15
    for requirement in wanted:
        for specifier in pinned[requirement.name]:
            (version,) = (one.version for one in specifier if one.operator == "==")
            assert requirement.specifier.contains(version), requirement


def test_a_run_without_visualdl_says_where_its_numbers_are(tmp_path):
    code = (
        "import pathlib; from beit.logging import RunLog; log = RunLog(pathlib.Path('run'), 0); log.add_dashboards(['visualdl']);"
        "log.scalars('train', {'loss': 1.0}, 1); log.close()"
    )
    result = run_without("visualdl", tmp_path, "-c", f"import os; os.chdir({str(tmp_path)!r}); {code}")
    assert result.returncode == 0, result.stderr
    assert "visualdl is not installed" in (tmp_path / "run" / "log.txt").read_text()
    assert '"train/loss": 1.0' in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert not (tmp_path / "run" / "visualdl").exists()
