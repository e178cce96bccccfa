"""Files whose names or shapes contradict each other are refused in one line, in time and memory of their size."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beit.checkpoint import unwrap
from beit.checkpoint.canonical import NAMES, depth_of, missing_names
from beit.checkpoint.files import write
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.shapes import check_shapes
from beit.containers.errors import CheckpointError
from beit.predict.resolve import load_model
from tests.checkpoint import publishers

Tree = dict[str, Any]
QKV = "blocks.1.attn.qkv.weight"


def reshaped(name: str, *shape: int) -> Callable[[Tree], Tree]:
    return lambda tree: tree | {name: np.zeros(shape, np.float32)}


def typed(name: str, dtype: str) -> Callable[[Tree], Tree]:
    return lambda tree: tree | {name: np.zeros(tree[name].shape, dtype)}


# Files with unilm's names; Linear weights are (out, in), those in the messages (in, out).
WRONG: dict[str, tuple[Callable[[Tree], Tree], str]] = {
    "a scalar": (reshaped("cls_token"), "with D = 1 (cls_token)"),
    "an axis too many": (reshaped("head.bias", 5, 1), "tensor head.bias has shape [5, 1], expected [K]"),
    "an empty axis": (reshaped("head.weight", 0, 24), "tensor head.weight is empty: its shape is [24, 0]"),
    "an empty axis beside a huge one": (reshaped("head.bias", 0, 10**12), "tensor head.bias is empty"),
    "a weight of another width": (
        reshaped("blocks.1.mlp.fc1.weight", 96, 23),
        "tensor blocks.1.mlp.fc1.weight has shape [23, 96], expected [D, M] with D = 24 (cls_token), M = 96",
    ),
    "a bias of another length": (reshaped("head.bias", 6), "tensor head.bias has shape [6], expected [K] with K = 5 (head.weight)"),
    "another grid in one block": (
        reshaped("blocks.1.attn.relative_position_bias_table", 52, 3),
        "expected [T, H] with T = 28 (blocks.0.attn.relative_position_bias_table)",
    ),
    "patches that are not square": (reshaped("patch_embed.proj.weight", 24, 3, 4, 5), "has shape [24, 3, 4, 5], expected [D, C, P, P]"),
    "query, key and value of a width that is no multiple of 3": (reshaped(QKV, 71, 24), "has shape [24, 71], expected [D, 3E] with D = 24"),
    "complex numbers": (typed("head.bias", "c8"), "tensor head.bias is of complex64, not of real numbers"),
    "texts": (typed("head.bias", "U3"), "tensor head.bias is of <U3, not of real numbers"),
    "objects": (typed("head.bias", "O"), "tensor head.bias is of object, not of real numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_contradicting_tensors_are_refused(name: str) -> None:
    change, reason = WRONG[name]
    tree = change(publishers.unilm_classifier(np.random.default_rng(0)))
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint({"model": tree})
    said = str(caught.value)
    assert said.startswith("state in memory: ") and "\n" not in said
    assert reason in said, said


@pytest.mark.parametrize("part", ["query", "value"])
def test_separate_weights_of_other_shapes_are_refused(part: str) -> None:
    tree = publishers.huggingface(publishers.unilm_classifier(np.random.default_rng(0)))
    tree[f"beit.encoder.layer.1.attention.attention.{part}.weight"] = np.zeros((24, 23), np.float32)
    with pytest.raises(CheckpointError, match="blocks.1.attn has query, key and value weights of the shapes"):
        open_checkpoint(tree)


def test_two_names_of_one_tensor_are_refused() -> None:
    tree = publishers.passl(publishers.unilm_classifier(np.random.default_rng(0)))
    tree["head.head.bias"] = np.ones(5, np.float32)
    with pytest.raises(
        CheckpointError, match=r"head\.fc_cls\.bias and head\.head\.bias are two names of one"
    ):
        open_checkpoint(tree)


def test_a_number_in_a_name_makes_no_loop_long() -> None:
    tree = publishers.unilm_classifier(np.random.default_rng(0))
    for huge in ("999999999", "9" * 5000):
        name = f"blocks.{huge}.norm1.weight"
        assert depth_of([*tree, name]) == 2
        assert missing_names(tree | {name: np.ones(24, np.float32)}, "classifier") == []
        checkpoint = open_checkpoint({"model": tree | {name: np.ones(24, np.float32)}})
        assert checkpoint.info.unknown == (name,) and checkpoint.info.architecture.depth == 2


@pytest.mark.parametrize("form", ["prefixes", "dictionaries"])
def test_very_many_prefixes_or_dictionaries_are_not_searched(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    one = np.ones(1, np.float32)
    trees = {
        "prefixes": {f"a{n}.b.c.d.e.weight": one for n in range(2000)},
        "dictionaries": {f"a{n}": {"b": {"weight": one}} for n in range(2000)},
    }
    calls = []
    real = unwrap.recognize
    monkeypatch.setattr(unwrap, "recognize", lambda *given: calls.append(1) or real(*given))
    with pytest.raises(CheckpointError, match="not a BEiT checkpoint"):
        open_checkpoint(trees[form])
    assert len(calls) <= 1


def test_no_model_is_made_that_is_larger_than_its_file(tmp_path: Path) -> None:
    tree = publishers.paddle_layout(publishers.unilm_classifier(np.random.default_rng(0)))
    write(tmp_path / "deep.pdparams", tree | {"blocks.998.gamma_1": np.ones(24, np.float32)})
    with pytest.raises(ValueError, match=r"lacks blocks\.10\.attn.* more: the file is incomplete"):
        load_model(tmp_path / "deep.pdparams")


def test_every_shape_is_compared_with_the_name() -> None:
    """A tensor of ten axes contradicts every name but that of a flag."""
    passed = set()
    for kind, names in NAMES.items():
        for pattern in names:
            name = re.sub(r"\{[ij]\}", "0", pattern)
            try:
                check_shapes({name: (1,) * 10}, kind)
            except CheckpointError:
                continue
            passed.add(name)
    assert passed == {"quantize.embedding.initted"}
