"""Runs every command of every page in `docs/`, in order. Commands that cannot be run here are parsed only."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import paddle
import pytest

import beit.config
import beit.passl
from beit.__main__ import main
from beit.config import get_config
from tests.docs.pages import (
    OTHERS,
    PAGES,
    PASSL_SMALLER,
    SMALLER,
    Step,
    check_flags,
    shorten,
    smaller,
    steps,
    use_cache,
    write_files_of,
)
from tests.tiny import ROOT, environment

pytestmark = pytest.mark.docs

NOT_RUN: dict[str, str] = {
    "python -m pip install": "installs packages",
    "sh run_demo.sh": "creates an environment and trains for minutes",
    "sh run_tests.sh": "would run this test",
    "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 python main_multi_gpu.py": "needs eight GPUs and ImageNet",
    "python main_multi_gpu.py -cfg=configs/tokenizer/": "needs eight GPUs and ImageNet",
    "python main_multi_gpu.py -cfg=configs/probe/": "needs eight GPUs and ImageNet",
    "python -m beit bench infer --model beit_base_patch16_224": "measures for many minutes; tests/bench runs every mode",
    "python -m beit evaluate -cfg=output/pictures/config.yaml -pretrained=output/pictures/model.pdparams -data_path": "needs onnxruntime; tests/deploy/test_compiled.py runs it",
    "python -m beit bench train": "measures for many minutes; tests/bench runs every mode",
    "python -m beit predict beit_base_patch16_224_pt22k_ft22kto1k ": "downloads weights; tests/tools/test_predict.py predicts with others",
    "python -m beit serve": "serves until it is ended; tests/tools/test_serve.py opens the page in a browser",
    "sh run_eval_multi.sh": "needs ImageNet; tests/test_paddlevit.py runs it with two ranks and a tiny model",
    "sh run_train_multi.sh": "needs ImageNet; tests/test_paddlevit.py runs it with two ranks and a tiny model",
    "python main_multi_gpu.py -cfg=configs/beitv2/": "needs eight GPUs and ImageNet",
    "python main_multi_gpu.py -cfg=beit_base_patch16_224 ": "needs ImageNet",
    "python -m paddle.distributed.launch": "needs two machines with eight GPUs; tests/train/test_processes.py starts two nodes",
    "python main_multi_gpu.py -cfg=configs/pretrain/": "needs eight GPUs and ImageNet",
    "python main_multi_gpu.py -cfg=configs/segment/": "needs eight GPUs and ADE20K",
}
"""Start of a command -> why it is parsed but not run."""

OUTPUTS: dict[str, tuple[str, ...]] = {
    "own-data": (
        "flowers/train_list.txt", "output/look/augmentation.png", "output/flowers/model.pdparams", "output/measured/eval.json",
        "output/measured/classes.csv", "output/measured/confusion.csv", "output/measured/confusion.png", "output/measured/predictions.png",
        "output/flowers/curves.png", "output/attention.png", "output/comparison.csv", "output/cam.png", "output/nearest.csv", "output/features.png", "exported/export.json",
    ),
    "small-machines": ("output/lora/adapter.pdparams", "flowers.safetensors", "output/student/model.pdparams"),
    "imagenet": (
        "imagenet/train_list.txt", "output/lists/eval.json", "output/webdataset/eval.json", "output/parquet/eval.json",
        "output/cifar/model.pdparams", "small/data/validation-00000-of-00001.parquet", "output/imagenet-r/eval.json", "output/sets/sets.json", "output/sets/real/eval.json",
        "output/shape_bias.csv",
    ),
    "multi-label": ("output/labels/best.pdparams", "output/scores/classes.csv", "exported/export.json"),
    "pretraining": (
        "output/v1/model.pdparams", "output/v1-pictures", "output/tokens.npy", "output/v2/model.pdparams", "output/codes",
        "output/v2-own/model.pdparams", "output/own-tuned/model.pdparams", "output/tuned/model.pdparams", "output/linear/model.pdparams", "output/knn/eval.json",
        "demo/vqkd/model.pdparams",
    ),
    "segmentation": (
        "output/scenes/model.pdparams", "output/base/model.pdparams", "output/slide/segmentation.txt",
        "output/whole/segmentation.json", "output/scales/eval.json", "output/overlays/scene_0000.png_overlay.png",
        "exported/export.json",
    ),
    "converting": (
        "base-passl.pdparams", "base-timm/model.safetensors", "base-transformers/config.json", "base.pdparams", "vqkd.pdparams",
        "dalle-encoder.safetensors",
    ),
    "README": ("output/pictures/model.pdparams",),
    "manual": ("output/knn/knn.json", "output/linear/probe.json", "output/pictures/model.pdparams", "beit_base_patch16_224.pdparams", "exported/export.json"),
    "from-mmpretrain": (),
    "from-transformers": ("tuned/model.safetensors", "tuned/preprocessor_config.json"),
    "from-paddlevit": (),
    "from-passl": (),
    "scaling": (),
    "speed": ("bench.json", "bench.png"),
    "paddle-notes": (),
    "several-machines": ("output/two/model.pdparams", "output/schedule/schedule.png"),
}  # fmt: skip
"""Files that the commands of a page write."""


def reason(step: Step) -> str | None:
    """Why a command is not run; None if it is run."""
    line = " ".join(step.words)
    return next((why for start, why in NOT_RUN.items() if line.startswith(start)), None)


def run_words(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run a command and return its exit status; in this process unless it starts several ranks."""
    if words[:3] == ["python", "-m", "beit"]:
        return main(words[3:])
    if words[1] == "main_multi_gpu.py":
        result = subprocess.run(
            [sys.executable, *words[1:]], env=environment(), capture_output=True, text=True, check=False
        )
        return result.returncode and result.stderr
    is_module = words[1] == "-m"
    monkeypatch.setattr(sys, "argv", words[2:] if is_module else words[1:])
    try:
        if is_module:
            monkeypatch.delitem(sys.modules, words[2], raising=False)
            runpy.run_module(words[2], run_name="__main__")
        else:
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def run_text(text: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a block of Python after the previous blocks of the page, with the options of `SMALLER` for its configs."""

    def small_config(path: Any = None, opts: Any = None) -> Any:
        options = SMALLER.get(Path(path).stem, {}) if path is not None else {}
        return get_config(path, [*(opts or []), *(item for pair in options.items() for item in pair)])

    passl_config = beit.passl.get_config
    with monkeypatch.context() as patch:
        readers = ("beit.models.published", "beit.train.api", "beit.predict.resolve")
        for module in (beit.config, *map(importlib.import_module, readers)):
            patch.setattr(module, "get_config", small_config)
        patch.setattr(beit.passl, "get_config", lambda file: passl_config(file, PASSL_SMALLER))
        patch.delitem(
            sys.modules, "config", raising=False
        )  # the module of the snippet holds the function of its import
        exec(compile(text, "page", "exec"), names)
        sys.modules.pop("config", None)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    paddle.seed(0)
    write_files_of(tmp_path, page)
    use_cache(tmp_path / "cache", monkeypatch)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for step in steps(PAGES[page]):
        if step.kind == "python":
            run_text(step.text, names, monkeypatch)
        elif reason(step):
            check_flags(step.words)
        else:
            status = run_words(smaller(step.words), monkeypatch)
            shorten(step.words)
            assert not status, f"{step.line}\n{status}\n{capfd.readouterr().err[-2000:]}"
    for name in OUTPUTS[page]:
        assert (tmp_path / name).exists(), name


def test_all_entries_of_the_tables_are_used() -> None:
    """Each entry of `NOT_RUN` and `SMALLER` belongs to a command, and each page has an entry in `OUTPUTS`."""
    lines = [step for page in PAGES.values() for step in steps(page)]
    commands = [" ".join(step.words) for step in lines if step.kind == "sh"]
    assert all(any(line.startswith(start) for line in commands) for start in NOT_RUN)
    text = "\n".join(step.line for step in lines)
    assert [name for name in SMALLER if name not in text] == []
    assert set(OUTPUTS) == set(PAGES)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.stem)
def test_links_have_a_target(page: Path) -> None:
    targets = re.findall(r"\]\(((?!http)[^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
    assert page.stem in OTHERS or page.name in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


def test_entries_of_the_changelog_are_whole() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = re.findall(r"^- (?:.+\n)(?: {2}.+\n)*", text, flags=re.MULTILINE)
    assert [entry for entry in entries if not entry.endswith(".\n")] == []


MARKDOWN = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.stem)
def test_lines_are_short(page: Path) -> None:
    """Prose has at most 120 characters per line; tables and code blocks, which cannot be wrapped, at most 200."""
    is_code, long = False, []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        is_code ^= line.startswith("```")
        if len(line) > (200 if is_code or line.startswith("|") else 120):
            long.append(f"{page.name}:{number}")
    assert long == []
