"""The commands and snippets of docs/manual.md work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from beit.config import get_config
from beit.flags import FLAGS, config_from_arguments
from beit.zoo.table import PUBLISHED
from tests.tiny import ROOT, environment

MANUAL = (ROOT / "docs" / "manual.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", MANUAL, flags=re.DOTALL)


def commands() -> list[list[str]]:
    """Every command of the manual's shell blocks, split into words like a shell does."""
    text = "\n".join(body for language, body in BLOCKS if language == "sh").replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_snippet_runs_with_a_paddlevit_file(tmp_path: Path) -> None:
    """The first Python block runs unchanged with weights of the documented file name."""
    config = get_config("beit_base_patch16_224")
    from beit import build_beit

    model = build_beit(config)
    state = dict(model.state_dict())
    for i in range(12):
        state[f"blocks.{i}.attn.relative_position_index"] = paddle.zeros([197, 197], dtype="int64")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    paddle.save(state, str(tmp_path / "beit_base_patch16_224.pdparams"))
    snippet = next(body for language, body in BLOCKS if language == "python")
    check = "import numpy as np\nnp.save('head.npy', model.head.weight.numpy())\n"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import warnings; warnings.filterwarnings('ignore', message='No ccache')\n" + snippet + check],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "head.npy"), model.head.weight.numpy())


RUNS = [
    words
    for words in commands()
    if any(word in ("main_multi_gpu.py", "main_single_gpu.py") for word in words)
]


@pytest.mark.parametrize("words", RUNS, ids=lambda words: " ".join(words)[-60:])
def test_every_training_command_has_known_flags_and_values(words: list[str]) -> None:
    script = next(i for i, word in enumerate(words) if word.endswith("_gpu.py"))
    assert (ROOT / words[script]).is_file()
    config = config_from_arguments(words[script + 1 :])
    assert config.MODEL.NAME != "beit"


def test_the_manual_has_the_documented_commands() -> None:
    lines = [" ".join(words) for words in commands()]
    documented = (
        "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 python main_multi_gpu.py -cfg=./configs/beit_base_patch16_224.yaml "
        "-dataset=imagenet2012 -batch_size=256 -data_path=/dataset/imagenet"
    )
    assert f"{documented} -eval -pretrained=./beit_base_patch16_224.pdparams -amp" in lines
    assert f"{documented} -amp" in lines
    assert len(RUNS) >= 4


@pytest.mark.parametrize("name", ["manual.md", "manual.zh.md"])
def test_the_manual_lists_the_flags_of_training(name: str) -> None:
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    (listed,) = re.findall(
        r"^\* \*\*.+\*\*[:：]`-cfg(?s:.+?)-opts", text.replace(": `", ":`"), flags=re.MULTILINE
    )
    assert set(re.findall(r"-(\w+)", listed)) == {"cfg", "opts", *FLAGS}


def test_every_file_and_config_named_exists() -> None:
    for name in re.findall(r"\b(?:run|main)_\w+\.(?:sh|py)\b", MANUAL):
        assert (ROOT / name).is_file(), name
    for name in set(
        re.findall(r"(?<!\w)(beit(?:v2)?_(?:base|large)_patch16_\d+\w*)(?:`|\.yaml| \|)", MANUAL)
    ):
        assert name in PUBLISHED or name == get_config(name).MODEL.NAME
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", MANUAL):
        assert (ROOT / "docs" / target).exists(), target


def test_published_numbers_equal_those_of_the_table() -> None:
    """The number of checkpoints, and each row with a name and a result, equal `PUBLISHED`."""
    assert f"{len(PUBLISHED)} published checkpoints of eight publishers" in MANUAL
    assert len({entry.publisher for entry in PUBLISHED.values()}) == 8
    rows = re.findall(r"^\| (\w+) \| (top-1|mIoU) ([\d.]+) \|$", MANUAL, flags=re.MULTILINE)
    measured = {name for name, entry in PUBLISHED.items() if entry.publisher == "unilm" and entry.metrics}
    assert {name for name, _, _ in rows} == measured
    for name, metric, number in rows:
        assert PUBLISHED[name].metrics[{"top-1": "top1", "mIoU": "miou"}[metric]] == float(number), name
    for name, top1, top5 in re.findall(
        r"^\| (\w+) \| [^|]+ \| ([\d.]+) / ([\d.]+) \|", MANUAL, flags=re.MULTILINE
    ):
        entry = PUBLISHED.get(name) or PUBLISHED[f"{name}.in1k_ft_in22k_in1k"]
        assert (f"{entry.metrics['top1']:.2f}", f"{entry.metrics['top5']:.2f}") == (top1, top5), name


OURS = [
    cell
    for row in re.findall(r"^\|.*\|.*\|(.*)\|$", MANUAL.partition("## Coming from")[2], flags=re.MULTILINE)
    for cell in re.findall(r"`([^`]+)`", row)
]


@pytest.mark.parametrize("line", OURS)
def test_flags_functions_and_models_in_the_manual_exist(line: str) -> None:
    """Commands have known flags; functions and published models exist."""
    import beit

    if line.startswith("python -m beit "):
        arguments = [word.replace("CONFIG", "beit_base_patch16_224") for word in line.split()[4:]]
        assert config_from_arguments(arguments).MODEL.NAME == "beit_base_patch16_224"
        return
    for name in re.findall(r"beit\.(\w+)\(", line):
        assert callable(getattr(beit, name))
    for name in re.findall(r"model\.(\w+)\(", line):
        assert callable(getattr(beit.Beit, name))
    for name in re.findall(r"get_model\('([^']+)'", line):
        assert name in PUBLISHED


def test_the_file_tree_exists() -> None:
    """Every entry of the file tree in CONTRIBUTING.md exists, and it names every folder of code."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = contributing.partition("## Files\n\n```\n")[2].partition("```")[0]
    root, named = ROOT, set()
    for line in tree.splitlines():
        entries = re.split(r"  +", line.strip())[0].split(" ")
        entries = [
            entry
            for entry in entries
            if re.fullmatch(r"[\w.]+/?", entry) and (entry.endswith("/") or "." in entry)
        ]
        root = ROOT if not line.startswith(" ") else root
        assert entries, line
        named |= set(entries)
        for entry in entries:
            assert (root / entry).exists(), entry
        if not line.startswith(" "):
            root = ROOT / entries[0]
    folders = {f"{file.parent.name}/" for file in (ROOT / "beit").glob("*/__init__.py")}
    assert folders - named == set()
