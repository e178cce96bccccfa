"""The README is one screen that holds, and the Chinese pages have the content of the English ones."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

import beit
from beit.zoo import published
from tests.faults.chinese import translated
from tests.faults.chinese_texts import EXPECTED
from tests.tiny import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = [ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.zh.md"))]


def test_the_readme_is_short() -> None:
    """A newcomer reads it whole: 75 lines and three commands besides the installation."""
    assert len(README.splitlines()) <= 75
    commands = [line for line in README.splitlines() if line.startswith("python -m beit ")]
    assert len(commands) == 3 and not any(line.endswith("\\") for line in commands)


def test_the_weights_of_the_first_command_can_be_downloaded() -> None:
    (name,) = re.findall(r"^python -m beit predict (\S+) ", README, flags=re.MULTILINE)
    assert published(name).url


def test_the_readme_has_the_documented_usage_and_the_commands_of_a_checkout() -> None:
    usage = (
        "from config import get_config",
        "from beit import build_beit as build_model",
        "model.set_state_dict(paddle.load(",
    )
    scripts = ("sh run_demo.sh", "sh run_tests.sh", "sh run_eval_multi.sh", "sh run_train_multi.sh")
    assert [text for text in (*usage, *scripts) if text not in README] == []


def test_targets_exist() -> None:
    for page in (README, (ROOT / "README.zh.md").read_text(encoding="utf-8")):
        for target in re.findall(r"\]\(((?!http)[^)]+)\)", page):
            assert (ROOT / target).is_file(), target


def test_pictures_are_small_and_used() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pictures = sorted((ROOT / "docs" / "images").iterdir())
    assert len(pictures) >= 7
    for picture in pictures:
        assert picture.stat().st_size < 150_000, picture
        assert f"](images/{picture.name})" in index, picture


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks that have a language."""
    return [block for block in re.findall(r"```(\w*)\n(.*?)```", text, flags=re.DOTALL) if block[0]]


def cells(text: str, pattern: str) -> list[str]:
    """What a pattern finds in the rows of tables."""
    rows = re.findall(r"^\|.*$", text, flags=re.MULTILINE)
    return [found for row in rows for found in re.findall(pattern, row)]


def decimals(text: str) -> Counter[str]:
    """The numbers with a decimal point, in a table or not. 128 万 is 1.28 million, 15 亿 is 1.5 billion."""
    for unit, share in (("万", 100), ("亿", 10)):
        text = re.sub(rf"(\d+) {unit}", lambda found, share=share: f"{int(found[1]) / share:g} ", text)
    return Counter(re.findall(r"(?<![\w.])\d+\.\d+(?!\w|\.\d)", text, flags=re.ASCII))


def targets(text: str) -> set[str]:
    """Targets of links and pictures, of a page in any language the English one."""
    return {target.replace(".zh.md", ".md") for target in re.findall(r"\]\(([^)#]+)", text)}


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_a_chinese_page_has_the_content_of_the_english_one(page: Path) -> None:
    """The same commands, snippets, links, and code and numbers in tables."""
    english = page.with_name(page.name.replace(".zh.md", ".md")).read_text(encoding="utf-8")
    chinese = page.read_text(encoding="utf-8")
    assert blocks(chinese) == blocks(english)
    for pattern in (r"\d+\.\d+", r"`[^`]+`"):
        assert cells(chinese, pattern) == cells(english, pattern)
    assert decimals(chinese) == decimals(english)
    own = {page.name, page.name.replace(".zh.md", ".md")}
    assert targets(chinese) - own == targets(english) - own
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > 300


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: page.name)
def test_the_two_versions_of_a_page_link_to_each_other_and_stay_in_their_language(page: Path) -> None:
    english = page.with_name(page.name.replace(".zh.md", ".md"))
    assert english.read_text(encoding="utf-8").splitlines()[2] == f"[中文]({page.name})"
    chinese = page.read_text(encoding="utf-8")
    assert chinese.splitlines()[2] == f"[English]({english.name})"
    others = re.findall(r"\[(?!English\])[^\]]*\]\(([^)#]+)(?<!\.zh)\.md", chinese)
    assert [name for name in others if (page.parent / f"{name}.zh.md").exists()] == []


def test_the_site_names_every_page_and_public_name() -> None:
    """mkdocs.yml lists every page, and docs/api.md every name of `beit.__all__` by the module that defines it."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = re.findall(r"[\w.-]+\.md", str(yaml.safe_load(text)["nav"]))
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed, chinese = (
        re.findall(r"^::: (.+)$", text, flags=re.MULTILINE)
        for text in (api, (ROOT / "docs" / "api.zh.md").read_text(encoding="utf-8"))
    )
    assert listed == chinese
    found = [path.rpartition(".") for path in listed]
    assert sorted(name for _, _, name in found) == sorted(beit.__all__)
    for module, _, name in found:
        assert getattr(importlib.import_module(module), name).__module__ == module


def test_the_chinese_list_of_faults_is_that_of_the_english_page() -> None:
    """After a change of docs/faults.md: `python -m tests.faults.chinese`; `chinese_texts` has each fault."""
    english, chinese = (
        (ROOT / "docs" / f"faults{language}.md").read_text(encoding="utf-8") for language in ("", ".zh")
    )
    assert chinese == translated(english)
    used = {"Expected: " + text for text in EXPECTED}
    joined = " ".join(english.split())
    assert not [text for text in used if text not in joined]
