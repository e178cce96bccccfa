"""The wheel contains all files of the package and no others."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import beit
from tests.tiny import ROOT, environment

BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that is built from a copy of the checkout."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("beit", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    result = subprocess.run(
        [sys.executable, "-c", BUILD, str(target)],
        cwd=source, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return next(target.iterdir())


@pytest.fixture(scope="module")
def names(wheel):
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as content:
        return {name for name in content.namelist() if ".dist-info/" not in name}


def test_the_metadata_is_complete(wheel):
    with zipfile.ZipFile(wheel) as content:
        name = next(name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(content.read(name))
    assert metadata["Summary"] and metadata["Author"] and "BEiT" in metadata["Keywords"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "beit/class_names/LICENSE-WordNet.txt"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert any(url.startswith("Paper,") for url in metadata.get_all("Project-URL"))
    classifiers = metadata.get_all("Classifier")
    versions = [entry.rpartition(" ")[2] for entry in classifiers if "Python :: 3." in entry]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_wheel_holds_the_modules_the_configs_and_the_lists(names):
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "beit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    configs = {f"beit/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.yaml")}
    assert names == package | configs
    assert {path.split("/")[2] for path in configs if path.count("/") > 2} >= {
        "_base_",
        "pretrain",
        "segment",
    }
    assert any(name.endswith("imagenet_1k.txt") for name in names)


def test_one_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'\nversion = "{beit.__version__}"\n' in project
    assert re.fullmatch(r"\d+\.\d+\.\d+", beit.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{beit.__version__}]" in changelog
    assert f"version: {beit.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
