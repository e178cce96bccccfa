"""`python -m tests.faults.chinese`: writes docs/faults.zh.md from docs/faults.md. Messages of programs stay as they are."""

from __future__ import annotations

import re
import textwrap

from tests.faults.chinese_texts import EXPECTED, FAMILIES, FAULTS
from tests.tiny import ROOT

HEAD = """# 故障测试的结果

[English](faults.md)

`python -m tests.faults` 输出英文页的列表，`python -m tests.faults.chinese` 由它写出本页。规则见
[可靠性：细节](reliability-details.zh.md)。故障之后的时间是从故障到消息的时间；如果不等待消息，或者时间会包含命令的启动，
则不列出。消息是程序的原文，截断到 240 个字符。
"""
WIDTH = 120


def translated(page: str) -> str:
    """The Chinese page.

    Args:
        page: text of docs/faults.md.

    Raises:
        KeyError: `chinese_texts` lacks a text of the page.
    """
    first = page.index("### ")
    blocks = re.split(r"\n+(?=\* \*\*|Expected: |### )|\n\n", page[first:].strip())
    lines = [HEAD]
    for block in (" ".join(block.split()) for block in blocks):
        if item := re.fullmatch(r"\* \*\*(.+?)\*\*(?: \(([\d.]+ s)\))?: (.+)", block):
            seconds = f"（{item[2]}）" if item[2] else ""
            lines += textwrap.wrap(
                f"* **{fault(item[1])}**{seconds}：{item[3]}",
                WIDTH,
                subsequent_indent="  ",
                break_on_hyphens=False,
            )
        elif block.startswith("### "):
            lines += ["", f"### {FAMILIES[block[4:]]}"]
        elif block.startswith("Expected: "):
            lines += ["", *textwrap.wrap(f"预期：{EXPECTED[block.removeprefix('Expected: ')]}", WIDTH), ""]
        elif total := re.fullmatch(r"(\d+) of (\d+) rows as expected", block):
            lines += ["", f"{total[2]} 行中有 {total[1]} 行符合预期"]
        else:
            raise KeyError(block)
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def fault(text: str) -> str:
    """A fault in Chinese; `{0}` in a template stands for a word, `{part}` for a text that has its own translation."""
    if text in FAULTS:
        return FAULTS[text]
    for template, chinese in FAULTS.items():
        pattern = re.sub(r"\\\{(\d|part)\\\}", _group, re.escape(template))
        if "{" in template and (found := re.fullmatch(pattern, text)):
            fields = found.groupdict()
            part = {"part": fault(fields.pop("part"))} if "part" in fields else {}
            return chinese.format(*(fields[name] for name in sorted(fields)), **part)
    raise KeyError(text)


def _group(field: re.Match[str]) -> str:
    return "(?P<part>.+)" if field[1] == "part" else rf"(?P<_{field[1]}>\S+)"


if __name__ == "__main__":
    source, target = ROOT / "docs" / "faults.md", ROOT / "docs" / "faults.zh.md"
    target.write_text(translated(source.read_text(encoding="utf-8")), encoding="utf-8")
