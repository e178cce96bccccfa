"""Configs of published names."""

from __future__ import annotations

import pytest

from beit.predict.resolve import find_weights
from beit.zoo.table import PUBLISHED


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("beit_base_patch16_224_pt22k_ft1k", "classify"),
        ("beitv2_base_patch16_224_pt1k", "pretrain"),
        ("microsoft/beit-base-finetuned-ade-640-640", "segment"),
        ("dalle_encoder", None),
    ],
)
def test_a_published_name_has_a_config(name, task, tmp_path, monkeypatch):
    monkeypatch.setenv("BEIT_HOME", str(tmp_path))
    (tmp_path / PUBLISHED[name].file_name).write_bytes(b"in the cache")
    weights = find_weights(name)
    assert weights.path == tmp_path / PUBLISHED[name].file_name
    assert (weights.config.TASK if weights.config is not None else None) == task
