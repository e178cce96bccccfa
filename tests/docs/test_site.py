"""The site builds without a broken link. Marked `site`: needs mkdocs-material and mkdocstrings (extra: docs)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import ROOT


@pytest.mark.site
def test_the_site_is_built_and_its_pages_are_complete(tmp_path: Path) -> None:
    """`mkdocs build --strict` ends with an error at a broken link or a name without a docstring."""
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for page in (ROOT / "docs").glob("*.md"):
        folder = tmp_path if page.stem == "index" else tmp_path / page.stem
        assert (folder / "index.html").is_file(), page
    api = (tmp_path / "api" / "index.html").read_text(encoding="utf-8")
    for name in re.findall(
        r"^::: (.+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE
    ):
        assert f'id="{name}"' in api, name
    outside = [
        url
        for page in tmp_path.rglob("*.html")
        for url in re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="(http[^"]+)"',
            page.read_text(encoding="utf-8"),
        )
    ]
    assert outside == []
